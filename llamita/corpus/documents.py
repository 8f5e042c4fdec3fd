"""What a corpus is: a stream of documents that can be read again, in pieces small enough for any memory."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Protocol

from llamita.tokenizer import END_OF_TEXT

PIECE_SIZE = 1 << 20  # characters (or bytes that are read) in the largest piece

# The newline right after the marker belongs to the marker's line, not to the document that follows.
_MARKER_LINE = re.compile(re.escape(END_OF_TEXT) + "(?:\r?\n)?")
_LONGEST_MARKER_LINE = END_OF_TEXT + "\r\n"


class Corpus(Protocol):
    """Where text comes from. Every call of `pieces` reads it anew, from its beginning."""

    def pieces(self) -> Iterator[str]:
        """The documents in order, each as one or more strings of at most about a million characters, then END_OF_TEXT.

        No piece of text is empty or holds the marker, no document is blank, and the last one is ended as well.
        """
        ...

    def fingerprint(self) -> str:
        """A sha256 in hex of all that `pieces` depends on."""
        ...

    def describe(self) -> str:
        """The corpus in a few words for a person, for example `tale.txt (1.1 MB)`."""
        ...


class DocumentList:
    """A corpus of documents that are already in memory, such as the built-in stories."""

    def __init__(self, documents: Sequence[str], name: str):
        self._documents = documents
        self._name = name

    def pieces(self) -> Iterator[str]:
        """The documents in order, each followed by END_OF_TEXT; a marker inside a document ends one there too."""
        for document in self._documents:
            yield from split_documents(cut(document))

    def documents(self) -> Iterator[str]:
        """The documents in order, each as one string."""
        return join_documents(self.pieces())

    def fingerprint(self) -> str:
        """sha256 over the documents and where each of them ends, in hex."""
        digest = hashlib.sha256()
        for document in self._documents:
            encoded = document.encode(errors="surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.hexdigest()

    def describe(self) -> str:
        """The name and the number of documents."""
        return f"{self._name} ({len(self._documents):,} documents)"


def split_documents(chunks: Iterable[str]) -> Iterator[str]:
    """One text, given in chunks cut anywhere -> its documents as `Corpus.pieces` describes them.

    Blank documents (nothing or only whitespace between two markers) are left out. Memory: one chunk, and the blank
    beginning of a document.
    """
    blank: list[str] = []  # how the document begins, held back until it turns out to say something
    speaking = False
    for piece in chain(_cut_at_markers(chunks), [END_OF_TEXT]):
        if piece == END_OF_TEXT:
            if speaking:
                yield END_OF_TEXT
            blank, speaking = [], False
        elif speaking or not piece.isspace():
            yield from (*blank, piece)
            blank, speaking = [], True
        else:
            blank.append(piece)


def join_documents(pieces: Iterable[str]) -> Iterator[str]:
    """The pieces of a corpus -> its documents, each as one string."""
    document: list[str] = []
    for piece in pieces:
        if piece == END_OF_TEXT:
            yield "".join(document)
            document = []
        else:
            document.append(piece)


def one_document(pieces: Iterable[str]) -> Iterator[str]:
    """The pieces of several documents -> those of one, with a newline where each of the others ended."""
    ended: bool | None = None  # None: nothing has been said yet
    for piece in pieces:
        if piece != END_OF_TEXT:
            if ended:
                yield "\n"
            yield piece
        ended = piece == END_OF_TEXT
    if ended is not None:
        yield END_OF_TEXT


def first_documents(pieces: Iterable[str], count: int) -> Iterator[str]:
    """The first `count` documents (one at least) of the pieces; an iterator is left at the one that follows."""
    for piece in pieces:
        yield piece
        count -= piece == END_OF_TEXT
        if count == 0:
            return


def cut(text: str) -> Iterator[str]:
    """A text in memory in strings of the size of a piece."""
    return (text[start : start + PIECE_SIZE] for start in range(0, len(text), PIECE_SIZE))


def _cut_at_markers(chunks: Iterable[str]) -> Iterator[str]:
    """Text in any chunks -> the same text in non-empty pieces, with every marker a piece of its own."""
    held = ""
    for chunk in chunks:
        text = held + chunk
        cut = len(text) - _marker_begun(text)
        held = text[cut:]
        yield from _interleave(_MARKER_LINE.split(text[:cut]))
    yield from _interleave(_MARKER_LINE.split(held))


def _marker_begun(text: str) -> int:
    """How many characters at the end of `text` may be the beginning of a marker's line that the next chunk goes on."""
    for length in range(min(len(_LONGEST_MARKER_LINE) - 1, len(text)), 0, -1):
        if _LONGEST_MARKER_LINE.startswith(text[-length:]):
            return length
    return 0


def _interleave(texts: Sequence[str]) -> Iterator[str]:
    """[a, b, c] -> a, END_OF_TEXT, b, END_OF_TEXT, c, without the empty ones."""
    for number, text in enumerate(texts):
        if number > 0:
            yield END_OF_TEXT
        if text:
            yield text
