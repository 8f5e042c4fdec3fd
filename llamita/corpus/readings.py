"""One reading of a corpus from its beginning: its text, how far it has got, and a fingerprint of what was read."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Protocol, runtime_checkable

from llamita.corpus.digests import FileDigest
from llamita.corpus.documents import Corpus, Pieces
from llamita.corpus.files import SourceFile


class Reading:
    """A reading of a corpus whose fingerprint is known without reading it.

    Attributes:
        pieces: as `Corpus.pieces`.
        size: how much there is to read, in the unit of `position`; 0: unknown.
        position: how much of it was read.
    """

    def __init__(self, corpus: Corpus):
        self._corpus = corpus
        self.size = (corpus.most_characters if isinstance(corpus, LocalCorpus) else None) or 0
        self.position = 0
        self.pieces: Pieces = self._counted(corpus.pieces())

    def fingerprint(self) -> str:
        """`Corpus.fingerprint` of what was read."""
        return self._corpus.fingerprint()

    def close(self) -> None:
        """End the reading before its end: files and connections are closed."""
        with suppress(AttributeError):  # of an iterator that is no generator, and holds nothing open
            self.pieces.close()  # pyright: ignore[reportAttributeAccessIssue]
        self.pieces = iter(())

    def _counted(self, pieces: Pieces) -> Pieces:
        for piece in pieces:
            self.position += len(piece or "")
            yield piece


class FileReading(Reading):
    """A reading of local files, whose bytes are hashed as they stream by. `size` and `position` are in bytes.

    files: those of the corpus, to be read by `pieces`. fingerprint: makes one of the sha256 of each file.
    """

    def __init__(
        self,
        files: list[SourceFile],
        pieces: Callable[[list[SourceFile]], Pieces],
        fingerprint: Callable[[Iterator[bytes]], str],
    ):
        self.size, self.position = sum(file.size for file in files), 0
        self._digests = [FileDigest(file.path, self._advance) for file in files]
        hashed = [replace(file, digest=digest) for file, digest in zip(files, self._digests, strict=True)]
        self.pieces = pieces(hashed)
        self._fingerprint = fingerprint

    def fingerprint(self) -> str:
        """`Corpus.fingerprint` of what was read. What a limit left out of the text is read now, to be hashed.

        Raises `UserError` where a file has changed since it was opened.
        """
        return self._fingerprint(digest.finish() for digest in self._digests)

    def _advance(self, size: int) -> None:
        self.position += size


@runtime_checkable
class LocalCorpus(Corpus, Protocol):
    """A corpus that is at hand: to read more of it than is used costs only time."""

    @property
    def most_characters(self) -> int | None:
        """A number of characters that the text does not exceed; None: unknown before it is read."""
        ...


@runtime_checkable
class HashedCorpus(LocalCorpus, Protocol):
    """A corpus whose fingerprint takes a reading of its own, unless it is computed while the text is read."""

    @property
    def size(self) -> int:
        """The bytes of its files."""
        ...

    def read(self) -> Reading:
        """Begin a reading."""
        ...


def read(corpus: Corpus) -> Reading:
    """Begin a reading of a corpus."""
    return corpus.read() if isinstance(corpus, HashedCorpus) else Reading(corpus)
