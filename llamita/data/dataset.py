"""From a configuration to all that training reads: tokenizer, token files, windows, and what is known of them."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from llamita.config import RunConfig
from llamita.corpus import Corpus, StoryCorpus, TextFiles
from llamita.corpus.stories import validation_stories
from llamita.data.prepare import Prepared, prepare, training_part
from llamita.data.windows import DocumentWindows, StreamWindows, Windows
from llamita.files import default_cache
from llamita.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from llamita.tokenizer.making import KINDS

TRAINING_STORIES = 30_000
VALIDATION_STORIES = 500
TOKENIZER_VERSION = 2  # of the tokenizers trained here; a change makes cached ones stale

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how much is done, how much there is)."""


@dataclass(frozen=True)
class Dataset:
    """What a run learns from. `floor`: nats per token that no model can go below on `validation`, where it is known."""

    tokenizer: Tokenizer
    prepared: Prepared
    train: Windows
    validation: Windows
    floor: float | None

    @property
    def fingerprint(self) -> str:
        """sha256 over the token files: equal exactly for equal tokens, made by the same tokenizer."""
        manifest = self.prepared.manifest
        hashes = [manifest.tokenizer_fingerprint, *(part.sha256 for part in manifest.parts.values())]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()


def open_dataset(config: RunConfig, progress: Progress | None = None) -> Dataset:
    """Tokenize what `config` names, or find it in the cache. Raises `UserError` for what a person has to mend."""
    prepared, tokenizer, floor_nats = prepare_data(config, progress)
    length = config.model.max_seq_len
    if window_kind(config) == "document":
        train, validation = DocumentWindows(prepared.train, length), DocumentWindows(prepared.validation, length)
        whole = longest_document(prepared) <= length
        floor = floor_nats / prepared.validation.part.tokens if floor_nats and whole else None
        return Dataset(tokenizer, prepared, train, validation, floor)
    validation = StreamWindows(prepared.validation, length, include_remainder=True)
    return Dataset(tokenizer, prepared, StreamWindows(prepared.train, length), validation, None)


def prepare_data(config: RunConfig, progress: Progress | None = None) -> tuple[Prepared, Tokenizer, float | None]:
    """Token files and tokenizer, and, for the built-in stories, the nats of surprise of all validation stories."""
    corpus, validation, floor_nats = _corpora(config)
    tokenizer = _tokenizer(config, corpus, validation, progress)
    report = (lambda done, total: progress("encoding", done, total)) if progress else None
    prepared = prepare(corpus, tokenizer, cache_folder(config), validation_corpus=validation, progress=report)
    return prepared, tokenizer, floor_nats


def window_kind(config: RunConfig) -> str:
    """`document` or `stream`: as configured, or what suits the data."""
    if config.data.windows != "auto":
        return config.data.windows
    return "document" if config.data.is_stories else "stream"


def cache_folder(config: RunConfig) -> Path:
    """Where prepared tokens are kept."""
    return Path(config.data.cache_dir) if config.data.cache_dir else default_cache()


def longest_document(prepared: Prepared) -> int:
    """The most tokens of a validation document, its end token included."""
    return int((prepared.validation.document_ends - prepared.validation.document_starts).max())


def _corpora(config: RunConfig) -> tuple[Corpus, Corpus | None, float | None]:
    """The corpus, and where validation text comes apart from it: that, and its nats of surprise."""
    if not config.data.is_stories:
        return TextFiles(config.data.data), None, None
    seed = config.training.seed
    held_out = validation_stories(seed, VALIDATION_STORIES)
    training = StoryCorpus(seed, TRAINING_STORIES, exclude={story.text for story in held_out})
    return training, StoryCorpus(seed, VALIDATION_STORIES, split="validation"), sum(story.nats for story in held_out)


def _tokenizer(config: RunConfig, corpus: Corpus, validation: Corpus | None, progress: Progress | None) -> Tokenizer:
    if config.data.tokenizer not in KINDS:
        return load_tokenizer(config.data.tokenizer, cache_folder(config))
    folder = _tokenizer_folder(config, corpus)
    if (folder / "tokenizer.json").exists():
        return load_tokenizer(folder)
    report = (lambda done, total: progress("training the tokenizer", done, total)) if progress else None
    tokenizer = train_tokenizer(
        config.data.tokenizer,
        [_text_for_tokenizer(config.data.tokenizer, corpus, validation)],
        vocab_size=config.model.vocab_size,
        pattern=config.data.pattern,
        progress=report,
    )
    tokenizer.save(folder)
    return tokenizer


def _tokenizer_folder(config: RunConfig, corpus: Corpus) -> Path:
    wanted = (config.data.tokenizer, TOKENIZER_VERSION)
    if config.data.tokenizer == "bpe":
        wanted += (config.model.vocab_size, config.data.pattern)
    name = hashlib.sha256(repr((corpus.fingerprint(), *wanted)).encode()).hexdigest()[:16]
    return cache_folder(config) / "tokenizers" / name


def _text_for_tokenizer(kind: str, corpus: Corpus, validation: Corpus | None) -> Iterator[str]:
    """The pieces that a tokenizer learns from.

    Merges come from the training part alone: text of the validation part shall be as new to them as to the model. But
    characters come from all the text, as is usual (nanoGPT does so): one that only the validation part has would be
    `<unk>` there, and the loss no longer that of the text.
    """
    if kind == "bpe":
        return training_part(corpus, validation)
    return chain(corpus.pieces(), validation.pieces() if validation else ())
