"""From a configuration to all that training reads: tokenizer, token files, windows, and what is known of them."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from llamita.config import DataConfig, ModelConfig, RunConfig
from llamita.corpus import Corpus, Defaults, Judge, Source, open_source
from llamita.data.prepare import Prepared, prepare, training_part
from llamita.data.windows import DocumentWindows, StreamWindows, Windows
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

TOKENIZER_TEXT = 100_000_000  # characters that merges are learned from at most: their memory grows with the words
TOKENIZER_VERSION = 2  # of the tokenizers trained here; a change makes cached ones stale

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how much is done, how much there is)."""


@dataclass(frozen=True)
class Dataset:
    """What a run learns from.

    Attributes:
        tokenizer, prepared: the tokenizer, and the token files that it made.
        train, validation: the windows to train on and to score.
        floor: nats per token that no model can go below on `validation`; None where nobody knows.
        judge: judges samples; None where nothing can, as for a prepared folder.
        defaults: what `auto` means for these data.
    """

    tokenizer: Tokenizer
    prepared: Prepared
    train: Windows
    validation: Windows
    floor: float | None
    judge: Judge | None
    defaults: Defaults

    @property
    def fingerprint(self) -> str:
        """sha256 over the token files: equal exactly for equal tokens, made by the same tokenizer."""
        manifest = self.prepared.manifest
        hashes = [manifest.tokenizer_fingerprint, *(part.sha256 for part in manifest.parts.values())]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()


def open_dataset(config: RunConfig, progress: Progress | None = None) -> Dataset:
    """Tokenize what `config` names, or find it in the cache. Raises `UserError` for what a person has to mend."""
    prepared, tokenizer, source = prepare_data(config, progress)
    defaults = source.defaults if source else Defaults()
    kind = defaults.windows if config.data.windows == "auto" else config.data.windows
    train, validation = _windows(kind, prepared, config.model.max_seq_len)
    judge = source.judge if source else None
    floor = _floor(source, kind, prepared, config.model.max_seq_len)
    return Dataset(tokenizer, prepared, train, validation, floor, judge, defaults)


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
    source = open_source(config.data, config.training.seed)
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
    """What to tell a person who gets another vocabulary than was asked for; None where it is as wanted."""
    wanted, folder = config.model.vocab_size, _prepared_folder(config)
    if config.data.tokenizer == "bpe" and not folder:
        return vocabulary_note("bpe", wanted, tokenizer)
    if wanted in (tokenizer.vocab_size, ModelConfig.vocab_size):  # the default: so not wanted
        return None
    brought_by = folder or f"the tokenizer {config.data.tokenizer}"
    return f"warning: vocab_size is {tokenizer.vocab_size:,}, that of {brought_by}, not {wanted:,}"


def note_on_documents(prepared: Prepared, tokenizer: Tokenizer) -> str | None:
    """What to tell a person whose documents no token ends; None where one does, or where there is one document."""
    if tokenizer.end_id is not None or prepared.train.part.documents == 1:
        return None
    return (
        f"warning: the tokenizer has no {END_OF_TEXT}: nothing marks where a document ends, so the model will not end "
        "one either; add that special token, or take another tokenizer"
    )


def cache_folder(config: RunConfig) -> Path:
    """Where prepared tokens are kept."""
    return Path(config.data.cache_dir) if config.data.cache_dir else default_cache()


def longest_document(prepared: Prepared) -> int:
    """The most tokens of a validation document, its end token included."""
    return int((prepared.validation.document_ends - prepared.validation.document_starts).max())


def _prepared_folder(config: RunConfig) -> Path | None:
    """The prepared folder that `data` names, if it does."""
    folder = Path(config.data.data[0]) if len(config.data.data) == 1 else None
    return folder if folder and (folder / "train.bin").exists() else None


def _open_prepared(folder: Path, config: RunConfig) -> tuple[Prepared, Tokenizer]:
    """The token files in a folder and the tokenizer that made them. Raises `UserError` where `config` wants others."""
    prepared, tokenizer = Prepared(folder), load_tokenizer(folder)
    if tokenizer.fingerprint != prepared.manifest.tokenizer_fingerprint:
        raise UserError(f"{folder}: its tokenizer.json did not make the tokens beside it; prepare the text again")
    for name in ("val_data", "text_field", "documents", "max_documents", "max_corpus_tokens"):
        if getattr(config.data, name) != getattr(DataConfig, name):
            raise UserError(f"{folder}: is prepared already, --{name} comes too late; give it to llamita prepare")
    wanted = config.data.tokenizer
    same = {"bpe": True, "char": isinstance(tokenizer, CharTokenizer)}.get(wanted)  # bpe: the default, so not wanted
    if same is None:
        same = load_tokenizer(wanted, cache_folder(config)).fingerprint == tokenizer.fingerprint
    if not same:
        raise UserError(f"{folder}: was prepared with another tokenizer than {wanted}; leave --tokenizer out")
    _require_pattern(config, tokenizer)
    return prepared, tokenizer


def _require_pattern(config: RunConfig, tokenizer: Tokenizer) -> None:
    """Raise `UserError` where `config` wants another pattern than that of a tokenizer which is there already."""
    wanted, has = config.data.pattern, getattr(tokenizer, "pattern", None)
    if has not in (None, wanted) and wanted != DataConfig.pattern:
        raise UserError(f"--pattern is {wanted}, but the tokenizer that is there splits text by {has}; leave it out")


def _windows(kind: str, prepared: Prepared, length: int) -> tuple[Windows, Windows]:
    """What a sequence of `length` tokens sees in training and in validation, by `kind`: `document` or `stream`."""
    if kind == "document":
        return DocumentWindows(prepared.train, length), DocumentWindows(prepared.validation, length)
    validation = StreamWindows(prepared.validation, length, include_remainder=True)
    return StreamWindows(prepared.train, length), validation


def _floor(source: Source | None, kind: str, prepared: Prepared, length: int) -> float | None:
    """Nats per token that no model can go below, known only where each window is a whole document."""
    if source is None or source.floor_nats is None or kind != "document" or longest_document(prepared) > length:
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
        [_text_for_tokenizer(config.data.tokenizer, source.training, source.validation)],
        vocab_size=config.model.vocab_size,
        pattern=config.data.pattern,
        progress=report,
    )
    tokenizer.save(folder)
    return tokenizer


def _tokenizer_folder(config: RunConfig, corpus: Corpus, validation: Corpus | None) -> Path:
    """Where a tokenizer that was trained on this text is kept."""
    wanted = (config.data.tokenizer, TOKENIZER_VERSION)
    if config.data.tokenizer == "bpe":
        wanted += (config.model.vocab_size, config.data.pattern)
    if validation is not None:  # then all of the corpus is trained on, and its characters count
        wanted += (validation.fingerprint(),)
    name = hashlib.sha256(repr((corpus.fingerprint(), *wanted)).encode()).hexdigest()[:16]
    return cache_folder(config) / "tokenizers" / name


def _text_for_tokenizer(kind: str, corpus: Corpus, validation: Corpus | None) -> Iterator[str]:
    """The pieces that a tokenizer learns from.

    Merges come from the training part alone: text of the validation part shall be as new to them as to the model. But
    characters come from all the text, as is usual (nanoGPT does so): one that only the validation part has would be
    `<unk>` there, and the loss no longer that of the text.
    """
    if kind == "bpe":
        return training_part(corpus, validation, max_characters=TOKENIZER_TEXT)
    return chain(corpus.pieces(), validation.pieces() if validation else ())
