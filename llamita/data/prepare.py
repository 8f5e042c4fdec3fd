"""From a corpus to token files: encoded once, split into training and validation, and cached for later runs."""

import hashlib
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from llamita.corpus import Corpus, first_documents, separate_documents
from llamita.corpus.documents import Pieces
from llamita.data.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, Part
from llamita.data.token_file import TokenFile, TokenWriter
from llamita.errors import UserError
from llamita.files import sync
from llamita.tokenizer import Tokenizer

Progress = Callable[[int, int], None]

VALIDATION_SHARE = 0.1  # of the documents, or of the characters of a single one

READING_VERSION = 2  # of how files become documents, and those ids; a change makes cached tokens stale

_PARTIAL = ".partial-"
_ABANDONED_AFTER = 24 * 3600.0  # seconds without a write after which a partial folder counts as abandoned


class Prepared:
    """A folder of finished token files, opened: `train` and `validation`. A UserError if they are damaged."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = Manifest.read(folder)
        self.train = TokenFile(folder / "train.bin")
        self.validation = TokenFile(folder / "val.bin")


class Extent(NamedTuple):
    """How much text a corpus holds."""

    documents: int
    characters: int


def prepare(
    corpus: Corpus,
    tokenizer: Tokenizer,
    cache: str | os.PathLike[str],
    *,
    validation_corpus: Corpus | None = None,
    validation_share: float = VALIDATION_SHARE,
    max_tokens: int = 0,
    output_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Write `train.bin`, `val.bin`, `tokenizer.json` and `manifest.json` into a folder, or find them there finished.

    Each document is followed by the end token if the tokenizer has one. The validation part is all of
    `validation_corpus`, or else the last share of the documents of `corpus` (one at least), or of the characters
    where there is a single document. The folder is complete or absent, and its name is a hash of text, split and
    tokenizer. The memory needed does not grow with the text, which is read four times: to name the folder, to count, to
    encode, and to check that it has not changed.

    Args:
        corpus: the text; with a `validation_corpus`, all of it is for training.
        tokenizer: what makes ids of it.
        cache: the folder that holds the prepared folders; made when absent.
        validation_corpus: the text to validate on.
        validation_share: between 0 and 1.
        max_tokens: each part ends, within a document if need be, where it has its share of these; 0: no limit. A
            `validation_corpus` is not cut.
        output_dir: the folder to write to, in place of one in the cache.
        progress: called with (characters encoded so far, characters in all).

    Raises:
        UserError: text that cannot be read or is too short to split, a disk that cannot take the files, or an
            `output_dir` that holds something else.
    """
    if not 0 < validation_share < 1:
        raise UserError(f"the share of the text for validation is {validation_share}; it must be between 0 and 1")
    source = corpus.fingerprint()
    validation = None if validation_corpus is None else validation_corpus.fingerprint()
    identity = _identity(source, validation or validation_share, tokenizer.fingerprint, max_tokens)
    folder = Path(output_dir or Path(cache) / identity[:16])
    if output_dir and folder.exists():
        _require_same(folder, identity)
    if not (folder / MANIFEST_NAME).exists():
        parts = _split(corpus, _measure(corpus), validation_corpus, validation_share, progress)
        limits = _limits(max_tokens, validation_share, validation_corpus)
        with _complete_or_absent(folder) as partial:
            written = {name: _write(partial / f"{name}.bin", parts[name], tokenizer, limits[name]) for name in parts}
            if (corpus.fingerprint(), validation_corpus and validation_corpus.fingerprint()) != (source, validation):
                raise UserError(f"{corpus.describe()}: the text changed while it was read; start again")
            tokenizer.save(partial)
            split = validation_corpus.describe() if validation_corpus else f"the last {validation_share}"
            texts = corpus.describe(), source, split, validation
            Manifest(
                *texts, tokenizer.fingerprint, tokenizer.vocab_size, tokenizer.end_id, parts=written, identity=identity
            ).write(partial)
    return Prepared(folder)


def training_part(
    corpus: Corpus,
    validation_corpus: Corpus | None = None,
    validation_share: float = VALIDATION_SHARE,
    max_characters: int = 0,
) -> Pieces:
    """The pieces of text of which `prepare` makes `train.bin`, as a stream; the corpus is read once before, to count.

    max_characters: of more text than that, only a sample of about this size, spread evenly over it; 0: all.
    Raises `UserError` as `prepare` does.
    """
    extent = _measure(corpus)
    pieces = _split(corpus, extent, validation_corpus, validation_share, None)["train"]
    return _sample(pieces, max_characters / extent.characters) if 0 < max_characters < extent.characters else pieces


def _identity(source: str, validation: str | float, tokenizer: str, max_tokens: int) -> str:
    """A hash of all that makes token files what they are. `validation`: a fingerprint, or the share of the source."""
    limit = (max_tokens,) if max_tokens else ()
    facts = (FORMAT_VERSION, READING_VERSION, source, validation, tokenizer, *limit)
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _require_same(folder: Path, identity: str) -> None:
    """Raise `UserError` unless a folder that the user named is empty, or has exactly what is to be written there."""
    if (folder / MANIFEST_NAME).exists():
        if Manifest.read(folder).identity != identity:
            raise UserError(f"{folder}: holds tokens of other text or another tokenizer; choose another --output_dir")
    elif not folder.is_dir() or any(folder.iterdir()):
        raise UserError(f"{folder}: is not an empty folder; choose another --output_dir")


def _limits(max_tokens: int, share: float, validation_corpus: Corpus | None) -> dict[str, int]:
    """The most tokens of each part."""
    if not max_tokens:
        return {"train": sys.maxsize, "val": sys.maxsize}
    if validation_corpus is not None:
        return {"train": max_tokens, "val": sys.maxsize}
    if max_tokens < 2:
        raise UserError(f"max_corpus_tokens is {max_tokens}, too few to split off a validation part; give more")
    validation = _share_of(max_tokens, share)
    return {"train": max_tokens - validation, "val": validation}


def _write(path: Path, pieces: Pieces, tokenizer: Tokenizer, limit: int) -> Part:
    """Encode a part into a token file, `limit` tokens at most. All of `pieces` is read: after it, the next begins."""
    with TokenWriter(path, tokenizer, limit) as writer:
        for document in separate_documents(pieces):
            if not writer.full:
                writer.write_document(document)
        return writer.finish()


def _sample(pieces: Pieces, share: float) -> Pieces:
    """Of the pieces of text, this share, spread evenly; of the ends of documents all."""
    number = 0
    for piece in pieces:
        if piece is not None:
            number += 1
        if piece is None or int(number * share) > int((number - 1) * share):
            yield piece


def _split(
    corpus: Corpus, extent: Extent, validation_corpus: Corpus | None, share: float, progress: Progress | None
) -> dict[str, Pieces]:
    """The pieces of each part, to be read in this order. All text was read before, so that mistakes show early."""
    if validation_corpus is not None:
        total = extent.characters + _measure(validation_corpus).characters
        report = _reporter(total, progress)
        return {"train": report(corpus.pieces()), "val": report(validation_corpus.pieces())}
    pieces = _reporter(extent.characters, progress)(corpus.pieces())
    if extent.documents == 1:
        if extent.characters < 2:
            raise UserError(f"{corpus.describe()}: one character is too short to split off a validation part")
        kept = extent.characters - _share_of(extent.characters, share)
        return {"train": first_documents(two := _two_documents(pieces, kept), 1), "val": two}
    kept = extent.documents - _share_of(extent.documents, share)
    return {"train": first_documents(pieces, kept), "val": pieces}


def _share_of(count: int, share: float) -> int:
    """How many of `count` are for validation: at least one, and at least one is left."""
    return min(max(round(count * share), 1), count - 1)


def _measure(corpus: Corpus) -> Extent:
    """Read a corpus once to know its extent."""
    documents = characters = 0
    for piece in corpus.pieces():
        if piece is None:
            documents += 1
        else:
            characters += len(piece)
    if documents == 0:
        raise UserError(f"{corpus.describe()}: there is no text in it")
    return Extent(documents, characters)


def _two_documents(pieces: Iterable[str | None], length: int) -> Pieces:
    """A single document as two, of which the first has `length` characters."""
    for piece in pieces:
        if piece is not None and 0 < length <= len(piece):
            yield piece[:length]
            yield None
            piece, length = piece[length:], 0
        elif piece is not None and length > 0:
            length -= len(piece)
        if piece != "":
            yield piece


def _reporter(total: int, progress: Progress | None) -> Callable[[Pieces], Pieces]:
    """Makes pieces report to `progress` as they are read; one count for all the streams that it is applied to."""
    done = 0

    def report(pieces: Pieces) -> Pieces:
        nonlocal done
        for piece in pieces:
            yield piece
            if progress is not None and piece is not None:
                done += len(piece)
                progress(done, total)

    return report


@contextmanager
def _complete_or_absent(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which becomes `folder` when the block ends well and is removed when it does not.

    A process that is killed leaves the folder under its partial name, which is never read.
    """
    partial = folder.with_name(f"{folder.name}{_PARTIAL}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        _remove_abandoned(folder)
        partial.mkdir(parents=True)
        yield partial
        for path in (*partial.iterdir(), partial):
            sync(path)
        _rename(partial, folder)
        sync(folder.parent)
    except OSError as error:
        raise UserError(
            f"{folder.parent}: the token files cannot be written ({error.strerror}); "
            "free some space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rename(partial: Path, folder: Path) -> None:
    """Give the complete folder its name, unless another process has prepared the same text meanwhile."""
    with suppress(OSError):
        folder.rmdir()  # an empty folder that the user made: Windows does not rename over it
    try:
        partial.rename(folder)
    except OSError:
        if not (folder / MANIFEST_NAME).exists():
            raise


def _remove_abandoned(folder: Path) -> None:
    """Delete what killed processes left of the same preparation."""
    for partial in folder.parent.glob(f"{folder.name}{_PARTIAL}*"):
        with suppress(FileNotFoundError):  # another process is renaming or deleting it
            written = max(path.stat().st_mtime for path in (partial, *partial.iterdir()))
            if time.time() - written > _ABANDONED_AFTER:
                shutil.rmtree(partial, ignore_errors=True)
