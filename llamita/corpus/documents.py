"""What a corpus is: a stream of documents that can be read repeatedly, in pieces small enough for any memory."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import Protocol

from llamita.tokenizer import END_OF_TEXT

PIECE_SIZE = 1 << 20  # characters (or bytes that are read) in the largest piece

Pieces = Iterator[str | None]
"""Documents in order, each as one or more strings, and None after each document."""

# A whole line: at the beginning of a text or after the end of a line, and up to the end of its own.
_MARKER_LINE = re.compile(rf"(?<![^\n\r]){re.escape(END_OF_TEXT)}(?:\r\n|\n|\r|\Z)")
_LONGEST_MARKER_LINE = END_OF_TEXT + "\r\n"


class Corpus(Protocol):
    """Where text comes from. Every call of `pieces` reads it from its beginning."""

    def pieces(self) -> Pieces:
        """The documents in order, each as one or more strings of at most about a million characters, then None.

        No string is empty, no document is blank, and the last one is ended as well. `<|endoftext|>` in a string is
        ordinary text.
        """
        ...

    def fingerprint(self) -> str:
        """A sha256 in hex of everything that `pieces` depends on."""
        ...

    def describe(self) -> str:
        """The corpus in a few words, for example `tale.txt (1.1 MB)`."""
        ...


class DocumentList:
    """A corpus of documents that are already in memory."""

    def __init__(self, documents: Sequence[str], name: str):
        self._documents = documents
        self._name = name

    def pieces(self) -> Pieces:
        """The documents in order, each followed by None; blank ones are left out."""
        return whole_documents(self._documents)

    @property
    def most_characters(self) -> int:
        """How many characters there are, blank documents included."""
        return sum(map(len, self._documents))

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


def split_documents(chunks: Iterable[str]) -> Pieces:
    """A text, given in chunks cut anywhere -> its documents as `Corpus.pieces` describes them.

    A line that is `<|endoftext|>` and nothing else ends a document, and belongs to none.
    """
    return without_blank(cut_at_marker_lines(chunks))


def whole_documents(documents: Iterable[str]) -> Pieces:
    """Documents in memory -> the same as `Corpus.pieces` describes them."""
    return without_blank(chain.from_iterable(chain(cut(document), (None,)) for document in documents))


def without_blank(pieces: Iterable[str | None]) -> Pieces:
    """The pieces without documents that are empty or only whitespace, and with the end of the last document.

    Memory: one piece, and the blank beginning of a document.
    """
    blank: list[str] = []  # how the document begins, held back until there is text in it
    has_text = False
    for piece in chain(pieces, (None,)):
        if piece is None:
            if has_text:
                yield None
            blank, has_text = [], False
        elif has_text or not piece.isspace():
            yield from (*blank, piece)
            blank, has_text = [], True
        else:
            blank.append(piece)


def separate_documents(pieces: Iterable[str | None]) -> Iterator[Iterator[str]]:
    """The pieces of a corpus -> its documents, each as an iterator of strings, to be read one after another."""
    for is_end, document in groupby(pieces, lambda piece: piece is None):
        if not is_end:
            yield (piece for piece in document if piece is not None)


def join_documents(pieces: Iterable[str | None]) -> Iterator[str]:
    """The pieces of a corpus -> its documents, each as one string."""
    return map("".join, separate_documents(pieces))


def one_document(pieces: Iterable[str | None]) -> Pieces:
    """The pieces of several documents -> those of one, with a newline where each of the others ended."""
    ended: bool | None = None  # None: there was no text yet
    for piece in pieces:
        if piece is not None:
            if ended:
                yield "\n"
            yield piece
        ended = piece is None
    if ended is not None:
        yield None


def first_documents(pieces: Iterable[str | None], count: int) -> Pieces:
    """The first `count` documents (one at least) of the pieces; an iterator is left at the one that follows."""
    for piece in pieces:
        yield piece
        count -= piece is None
        if count == 0:
            return


def cut(text: str) -> Iterator[str]:
    """A text in memory in strings of the size of a piece."""
    return (text[start : start + PIECE_SIZE] for start in range(0, len(text), PIECE_SIZE))


def cut_at_marker_lines(chunks: Iterable[str]) -> Pieces:
    """Text in any chunks -> the same text in non-empty pieces, with None in place of every marker line."""
    before, held = "", ""  # the last character that was cut off, which tells whether a line begins; what waits for more
    for chunk in chunks:
        text = before + held + chunk
        end = len(text) - _marker_begun(text, len(before))
        yield from _cut_whole(text[:end], len(before))
        before, held = text[max(end - 1, 0) : end], text[end:]
    yield from _cut_whole(before + held, len(before))


def _cut_whole(text: str, start: int) -> Pieces:
    """The pieces of `text` from `start` on; what is before that tells only whether a line begins there."""
    for match in _MARKER_LINE.finditer(text, start):
        if match.start() > start:
            yield text[start : match.start()]
        yield None
        start = match.end()
    if start < len(text):
        yield text[start:]


def _marker_begun(text: str, start: int) -> int:
    """How many characters at the end of `text`, from `start` on, may be the beginning of a marker line."""
    for length in range(min(len(_LONGEST_MARKER_LINE) - 1, len(text) - start), 0, -1):
        begins_line = length == len(text) or text[-length - 1] in "\r\n"
        if begins_line and _LONGEST_MARKER_LINE.startswith(text[-length:]):
            return length
    return 0
