"""From a configuration to everything that training reads: tokenizer, token files, windows, and facts about them."""

import os
from dataclasses import dataclass
from pathlib import Path

from llamita.config import DataConfig, ModelConfig, RunConfig
from llamita.corpus import Defaults, Judge, Source, open_source
from llamita.corpus.source import Progress
from llamita.data.learning import trained_tokenizer
from llamita.data.prepare import Known, Prepared, prepare
from llamita.data.windows import DocumentWindows, StreamWindows, Windows, longest_document
from llamita.errors import UserError
from llamita.files import default_cache
from llamita.tokenizer import (
    END_OF_TEXT,
    CharTokenizer,
    Tokenizer,
    load_tokenizer,
    vocabulary_note,
)
from llamita.tokenizer.making import KINDS

READING = "data_revision", "val_data", "text_field", "encoding", "errors", "documents"
BEFORE_PREPARING = *READING, "max_documents", "max_corpus_tokens"
"""Settings that say how text becomes token files, and come too late for a prepared folder."""


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
    report = progress or (lambda *_: None)
    if config.data.tokenizer in KINDS:
        tokenizer, known = trained_tokenizer(config, source, cache_folder(config), report)
    else:
        tokenizer, known = load_tokenizer(config.data.tokenizer, cache_folder(config)), Known()
    _require_pattern(config, tokenizer)
    prepared = prepare(
        source.training,
        tokenizer,
        cache_folder(config),
        validation_corpus=source.validation,
        holdout_every=source.holdout_every,
        max_tokens=config.data.max_corpus_tokens,
        output_dir=output_dir,
        known=known,
        progress=report,
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
