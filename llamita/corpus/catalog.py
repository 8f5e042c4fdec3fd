"""The corpora that `--data NAME` fetches: where each one is, pinned, and what is special about it.

A new corpus is an entry here. Licences are those that the dataset's page on the hub states.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class WebFile:
    """A single file that is not on the hub; the sha256 pins it."""

    url: str
    size: int
    sha256: str


@dataclass(frozen=True)
class NamedCorpus:
    """A dataset of the hub, or one file from elsewhere.

    Attributes:
        summary: what it is, in a line; sizes are those of the files.
        licence: as its page states it.
        repository, revision: the dataset on the hub, OWNER/NAME, and the commit.
        files: a pattern of the files to train on; `*` stands for anything.
        validation: a pattern of the files to validate on; empty: every `HOLDOUT_EVERY`-th document is held out.
        text_field: the column of the text, of Parquet files.
        articles: the rows are lines of articles (`articles.py`).
        file: in place of a dataset.
    """

    summary: str
    licence: str
    repository: str = ""
    revision: str = ""
    files: str = ""
    validation: str = ""
    text_field: str = "text"
    articles: bool = False
    file: WebFile | None = field(default=None)


HOLDOUT_EVERY = 200
"""Of a corpus without a validation file, every document of this number is for validation."""

CATALOG = {
    "tinystories": NamedCorpus(  # Eldan & Li, 2023: arXiv 2305.07759
        summary="2.7 M short stories in the words of small children, written by GPT-4; 2.2 GB of text",
        licence="CDLA-Sharing-1.0",
        repository="roneneldan/TinyStories",
        revision="f54c09fd23315a6f9c86f9dc80f725de7d8f9c64",
        files="TinyStoriesV2-GPT4-train.txt",
        validation="TinyStoriesV2-GPT4-valid.txt",
    ),
    "simplestories": NamedCorpus(  # Finke et al., 2025: arXiv 2504.09184
        summary="2 M short stories in simple language, more varied than TinyStories; Parquet",
        licence="MIT",
        repository="SimpleStories/SimpleStories",
        revision="e63b8adc3b1a1bdc7cac5b500d150b71346b0628",
        files="data/*.parquet",
        text_field="story",
    ),
    "openwebtext": NamedCorpus(  # Gokaslan & Cohen, 2019
        summary="8 M web pages, a copy of what GPT-2 was trained on; 80 Parquet files of 303 MB, about 40 GB of text",
        licence="CC0-1.0",
        repository="Skylion007/openwebtext",
        revision="79d93d786212f7344586290adb811d4ae6a1762c",
        files="plain_text/train-*.parquet",
    ),
    "fineweb-edu": NamedCorpus(  # Penedo et al., 2024: arXiv 2406.17557
        summary="educational web pages, a sample of 10 billion tokens of GPT-2's; Parquet",
        licence="ODC-By-1.0",
        repository="HuggingFaceFW/fineweb-edu",
        revision="87f09149ef4734204d70ed1d046ddc9ca3f2b8f9",
        files="sample/10BT/*.parquet",
    ),
    "wikitext-103": NamedCorpus(  # Merity et al., 2016: arXiv 1609.07843
        summary="28,475 good and featured articles of Wikipedia, 103 M words, with a validation file; Parquet",
        licence="CC-BY-SA-3.0 and GFDL",
        repository="Salesforce/wikitext",
        revision="b08601e04326c79dfdd32d625aee71d232d685c3",
        files="wikitext-103-raw-v1/train-*.parquet",
        validation="wikitext-103-raw-v1/validation-*.parquet",
        articles=True,
    ),
    "shakespeare": NamedCorpus(  # Karpathy's sample for char-rnn, 2015
        summary="1.1 MB of Shakespeare's plays; a single document",
        licence="public domain",
        file=WebFile(
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            1_115_394,
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
    ),
}
"""Name, given alone as `data` -> the corpus."""
