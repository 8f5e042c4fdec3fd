"""From a configuration to everything that training reads: tokenizer, token files, windows, and facts about them."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from llamita.config import DataConfig, ModelConfig, RunConfig
from llamita.corpus import Corpus, Defaults, Judge, Source, open_source, separate_documents
from llamita.data.prepare import Prepared, prepare, training_part
from llamita.data.windows import DocumentWindows, StreamWindows, Windows, longest_document
from llamita.errors import UserError
from llamita.files import default_cache
from llamita.tokenizer import (
    END_OF_TEXT,
    CharTokenizer,
    Tokenizer,
    load_tokenizer,
    train_tokenizer,
    vocabulary_note,
)
from llamita.tokenizer.making import KINDS

TOKENIZER_TEXT = 100_000_000  # the most characters that merges are learned from: memory grows with the distinct words
TOKENIZER_VERSION = 3  # of the tokenizers trained here; a change makes cached ones stale

READING = "data_revision", "val_data", "text_field", "encoding", "errors", "documents"
BEFORE_PREPARING = *READING, "max_documents", "max_corpus_tokens"
"""Settings that say how text becomes token files, and come too late for a prepared folder."""

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how much of it is done, how much there is)."""


@dataclass(frozen=True)
class Dataset:
    """What a run learns from.

    Attributes:
        tokenizer, prepared: the tokenizer, and the token files that it made.
        train, validation: the windows to train on and to score.
        floor: nats per token that no model can go below on `validation`; None where it is unknown.
        judge: judges samples; None where there is none, as for a prepared folder.
        defaults: what `auto` means for these data.
        notes: lines for the user about how the text was read.
    """

    tokenizer: Tokenizer
    prepared: Prepared
    train: Windows
    validation: Windows
    floor: float | None
    judge: Judge | None
    defaults: Defaults
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """sha256 over the token files: equal exactly for equal tokens, made by the same tokenizer."""
        return self.prepared.manifest.fingerprint


def open_dataset(config: RunConfig, progress: Progress | None = None) -> Dataset:
    """Tokenize what `config` names, or find it in the cache. Raises `UserError` for what the user has to fix."""
    return make_dataset(config, *prepare_data(config, progress))


def make_dataset(config: RunConfig, prepared: Prepared, tokenizer: Tokenizer, source: Source | None) -> Dataset:
    """The windows that `config` asks for on these tokens, with what `source` knows of them, where there is one."""
    defaults = source.defaults if source else Defaults()
    kind = defaults.windows if config.data.windows == "auto" else config.data.windows
    train, validation = _windows(kind, prepared, config.model.max_seq_len, tokenizer)
    judge = source.judge if source else None
    floor = _floor(source, kind, prepared, config.model.max_seq_len)
    notes = tuple(source.notes()) if source else ()
    return Dataset(tokenizer, prepared, train, validation, floor, judge, defaults, notes)


def prepare_data(
    config: RunConfig, progress: Progress | None = None, output_dir: Path | None = None
) -> tuple[Prepared, Tokenizer, Source | None]:
    """Token files, tokenizer, and the source of their text, which is None where `data` is a prepared folder.

    Where it is one, these are its files; otherwise they are in the cache, or in `output_dir`.
    """
    if folder := _prepared_folder(config):
        if output_dir:
            raise UserError(f"{folder}: is prepared already; train with --data {folder}")
        return *_open_prepared(folder, config), None
    source = open_source(config.data, config.training.seed, progress)
    tokenizer = _tokenizer(config, source, progress)
    _require_pattern(config, tokenizer)
    prepared = prepare(
        source.training,
        tokenizer,
        cache_folder(config),
        validation_corpus=source.validation,
        max_tokens=config.data.max_corpus_tokens,
        output_dir=output_dir,
        progress=(lambda done, total: progress("encoding", done, total)) if progress else None,
    )
    return prepared, tokenizer, source


def note_on_vocabulary(config: RunConfig, tokenizer: Tokenizer) -> str | None:
    """A warning where the vocabulary has another size than was requested; None where it has that size."""
    requested, folder = config.model.vocab_size, _prepared_folder(config)
    if config.data.tokenizer == "bpe" and not folder:
        return vocabulary_note("bpe", requested, tokenizer)
    if requested in (tokenizer.vocab_size, ModelConfig.vocab_size):  # the default: so not requested
        return None
    owner = folder or f"the tokenizer {config.data.tokenizer}"
    return f"warning: vocab_size is {tokenizer.vocab_size:,}, that of {owner}, not {requested:,}"


def note_on_documents(prepared: Prepared, tokenizer: Tokenizer) -> str | None:
    """A warning where no token ends the documents; None where one does, or where there is a single document."""
    if tokenizer.end_id is not None or prepared.train.part.documents == 1:
        return None
    return (
        f"warning: the tokenizer has no {END_OF_TEXT}: nothing marks where a document ends, so the model never stops "
        "by itself; add that special token, or use another tokenizer"
    )


def cache_folder(config: RunConfig) -> Path:
    """The cache of prepared tokens and tokenizers."""
    return Path(config.data.cache_dir) if config.data.cache_dir else default_cache()


def _prepared_folder(config: RunConfig) -> Path | None:
    """The prepared folder that `data` names, if it does."""
    folder = Path(config.data.data[0]) if len(config.data.data) == 1 else None
    return folder if folder and os.path.exists(folder / "train.bin") else None


def _open_prepared(folder: Path, config: RunConfig) -> tuple[Prepared, Tokenizer]:
    """The token files in a folder and the tokenizer that made them. Raises `UserError` for settings that differ."""
    prepared, tokenizer = Prepared(folder), load_tokenizer(folder)
    if tokenizer.fingerprint != prepared.manifest.tokenizer_fingerprint:
        raise UserError(f"{folder}: its tokenizer.json did not make the tokens beside it; prepare the text again")
    for name in BEFORE_PREPARING:
        if getattr(config.data, name) != getattr(DataConfig, name):
            raise UserError(f"{folder}: is prepared already, --{name} comes too late; give it to llamita prepare")
    requested = config.data.tokenizer  # bpe is the default, so not requested
    same = {"bpe": True, "char": isinstance(tokenizer, CharTokenizer)}.get(requested)
    if same is None:
        same = load_tokenizer(requested, cache_folder(config)).fingerprint == tokenizer.fingerprint
    if not same:
        raise UserError(f"{folder}: was prepared with another tokenizer than {requested}; leave --tokenizer out")
    _require_pattern(config, tokenizer)
    return prepared, tokenizer


def _require_pattern(config: RunConfig, tokenizer: Tokenizer) -> None:
    """Raise `UserError` where `config` asks for another pattern than that of a tokenizer that exists already."""
    requested, has = config.data.pattern, getattr(tokenizer, "pattern", None)
    if has not in (None, requested) and requested != DataConfig.pattern:
        raise UserError(f"--pattern is {requested}, but the tokenizer already splits text by {has}; leave it out")


def _windows(kind: str, prepared: Prepared, length: int, tokenizer: Tokenizer) -> tuple[Windows, Windows]:
    """What a sequence of `length` tokens sees in training and in validation, by `kind`: `document` or `stream`."""
    if kind == "document":
        start = tokenizer.start_id
        return DocumentWindows(prepared.train, length, start), DocumentWindows(prepared.validation, length, start)
    validation = StreamWindows(prepared.validation, length, include_remainder=True)
    return StreamWindows(prepared.train, length), validation


def _floor(source: Source | None, kind: str, prepared: Prepared, length: int) -> float | None:
    """Nats per token that no model can go below, known only where each window is a whole document, with its end."""
    if source is None or source.floor_nats is None or kind != "document" or prepared.manifest.end_id is None:
        return None
    if longest_document(prepared.validation) > length:
        return None
    return source.floor_nats / prepared.validation.part.tokens


def _tokenizer(config: RunConfig, source: Source, progress: Progress | None) -> Tokenizer:
    if config.data.tokenizer not in KINDS:
        return load_tokenizer(config.data.tokenizer, cache_folder(config))
    folder = _tokenizer_folder(config, source.training, source.validation)
    if (folder / "tokenizer.json").exists():
        return load_tokenizer(folder)
    report = (lambda done, total: progress("training the tokenizer", done, total)) if progress else None
    tokenizer = train_tokenizer(
        config.data.tokenizer,
        _text_for_tokenizer(config.data.tokenizer, source.training, source.validation),
        vocab_size=config.model.vocab_size,
        pattern=config.data.pattern,
        progress=report,
    )
    tokenizer.save(folder)
    return tokenizer


def _tokenizer_folder(config: RunConfig, corpus: Corpus, validation: Corpus | None) -> Path:
    """The folder in the cache of a tokenizer that was trained on this text."""
    settings = (config.data.tokenizer, TOKENIZER_VERSION)
    if config.data.tokenizer == "bpe":
        settings += (config.model.vocab_size, config.data.pattern)
    if validation is not None:  # then all of the corpus is trained on, and its characters count
        settings += (validation.fingerprint(),)
    name = hashlib.sha256(repr((corpus.fingerprint(), *settings)).encode()).hexdigest()[:16]
    return cache_folder(config) / "tokenizers" / name


def _text_for_tokenizer(kind: str, corpus: Corpus, validation: Corpus | None) -> Iterator[Iterator[str]]:
    """The documents that a tokenizer learns from.

    Merges come from the training part alone: text of the validation part is to be as new to them as to the model. But
    characters come from all the text, as is usual (nanoGPT does so): one that only the validation part has would be
    `<unk>` there, and the loss no longer that of the text.
    """
    if kind == "bpe":
        return separate_documents(training_part(corpus, validation, max_characters=TOKENIZER_TEXT))
    return separate_documents(chain(corpus.pieces(), validation.pieces() if validation else ()))
