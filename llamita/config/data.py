"""The [data] table: the text to train on."""

from dataclasses import dataclass, field
from typing import Literal

from llamita.config.checks import require_encoding, require_not_negative, require_utf8

EXECUTION = {"execution": True}
"""Field metadata: this field may change when a run is resumed."""


@dataclass(frozen=True)
class DataConfig:
    """The text to train on, and how it becomes windows of token ids.

    Text and tokenizer count by their content, as a hash, not by their path: hence most fields are execution.
    """

    data: tuple[str, ...] = field(default=("stories",), metadata=EXECUTION)
    """Text files, folders, patterns such as `a/*.jsonl`, or one prepared folder; or a corpus by name: `stories` (built
    in), `tinystories`, `simplestories`, `openwebtext`, `fineweb-edu`, `wikitext-103`, `shakespeare`, or
    `hf:OWNER/NAME[/FILES]`, a dataset of the Hugging Face hub."""
    data_revision: str = field(default="", metadata=EXECUTION)
    """The commit, branch or tag of a corpus from the hub; empty: the commit that llamita was tested with, else main."""
    val_data: tuple[str, ...] = field(default=(), metadata=EXECUTION)
    """Files to validate on, named as in data; none: the corpus's own, or else the last tenth of the documents
    of data (of a corpus from the hub, every 200th)."""
    text_field: str = field(default="text", metadata=EXECUTION)
    """The field of .jsonl files, or the column of .parquet files, that holds the text."""
    encoding: str = field(default="utf-8", metadata=EXECUTION)
    """Of text files, such as `latin-1` or `cp1252`. UTF-8, UTF-16 and UTF-32 with a byte order mark need no setting."""
    errors: Literal["strict", "skip", "replace"] = field(default="strict", metadata=EXECUTION)
    """For files that are not text in this encoding. `strict`: refuse and list them; `skip`: leave them out; `replace`:
    read what is not text as U+FFFD."""
    documents: Literal["auto", "file", "line"] = field(default="auto", metadata=EXECUTION)
    """What a document is. auto: a line of .jsonl, else the text between `<|endoftext|>` lines, else the file."""
    max_documents: int = field(default=0, metadata=EXECUTION)
    """Read at most this many documents of data; 0: all."""
    max_corpus_tokens: int = field(default=0, metadata=EXECUTION)
    """Keep at most this many tokens, split between training and validation as before; 0: all."""
    tokenizer: str = field(default="bpe", metadata=EXECUTION)
    """`bpe` (trained on the data), `char`, `gpt2` (downloaded once), or a folder or file of a saved tokenizer."""
    pattern: Literal["gpt2", "cl100k", "llama3"] = field(default="gpt2", metadata=EXECUTION)
    """How a BPE tokenizer trained here splits text into pieces before merging."""
    windows: Literal["auto", "stream", "document"] = "auto"
    """`stream`: cut the tokens every max_seq_len; `document`: never across documents. auto: document for stories."""
    cache_dir: str = field(default="", metadata=EXECUTION)
    """Folder for prepared tokens; empty: $LLAMITA_CACHE, else ~/.cache/llamita."""

    def __post_init__(self) -> None:
        require_not_negative(self, "max_documents", "max_corpus_tokens")
        require_utf8(self, "data", "data_revision", "val_data", "tokenizer", "cache_dir")
        require_encoding(self, "encoding")
