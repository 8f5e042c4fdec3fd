"""Which documents are for training, and which for validation."""

import sys
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from llamita.corpus import Corpus, first_documents, separate_documents
from llamita.corpus.documents import Pieces
from llamita.errors import UserError

VALIDATION_SHARE = 0.1  # of the documents, or of the characters of a single one


class Extent(NamedTuple):
    """How much text a corpus holds."""

    documents: int
    characters: int


class Counter:
    """Counts what streams through it."""

    def __init__(self) -> None:
        self.documents = self.characters = 0

    def count(self, pieces: Iterable[str | None]) -> Pieces:
        """The pieces as they are."""
        for piece in pieces:
            if piece is None:
                self.documents += 1
            else:
                self.characters += len(piece)
            yield piece

    def extent(self, corpus: Corpus) -> Extent:
        """What was counted. Raises `UserError` where that is nothing."""
        if self.documents == 0:
            raise UserError(f"{corpus.describe()}: there is no text in it")
        return Extent(self.documents, self.characters)


class Limits(NamedTuple):
    """The most tokens of each part."""

    train: int = sys.maxsize
    val: int = sys.maxsize


def limits(max_tokens: int, validation_share: float | None) -> Limits:
    """What each part gets of `max_tokens` (0: no limit). A validation text of its own, with no share, is not cut."""
    if not max_tokens:
        return Limits()
    if validation_share is None:
        return Limits(max_tokens)
    if max_tokens < 2:
        raise UserError(f"max_corpus_tokens is {max_tokens}, too few to split off a validation part; give more")
    validation = share_of(max_tokens, validation_share)
    return Limits(max_tokens - validation, validation)


def split_last(pieces: Pieces, corpus: Corpus, extent: Extent, share: float) -> tuple[Pieces, Pieces]:
    """The last share of the documents is for validation, or of the characters of a single one.

    -> the pieces for training and those for validation, to be read in this order.
    """
    if extent.documents > 1:
        return first_documents(pieces, extent.documents - share_of(extent.documents, share)), pieces
    if extent.characters < 2:
        raise UserError(f"{corpus.describe()}: one character is too short to split off a validation part")
    two = _two_documents(pieces, extent.characters - share_of(extent.characters, share))
    return first_documents(two, 1), two


def without_held_out(pieces: Iterable[str | None], every: int) -> Pieces:
    """The documents for training where the first one, and every `every`-th after it, is held out for validation."""
    number = 0
    for piece in pieces:
        if number % every:
            yield piece
        number += piece is None


def without_last(pieces: Iterable[str | None], share: float) -> Pieces:
    """The documents but for the last share, whose number is known only in the end: as many are held back in memory."""
    waiting: deque[list[str]] = deque()
    passed = 0
    for count, document in enumerate(separate_documents(pieces), 1):
        waiting.append(list(document))
        while count > 1 and passed < count - share_of(count, share):
            passed += 1
            yield from waiting.popleft()
            yield None


def first_bytes(pieces: Iterable[str | None], limit: int) -> Pieces:
    """The beginning of the text: at most this many bytes, ends of documents counted as one. It may end in a document.

    As a token has at least one byte, a text of as many tokens has all of it.
    """
    for piece in pieces:
        size = 1 if piece is None else len(piece.encode("utf-8", "surrogatepass"))
        if size > limit:
            yield from [(piece or "")[: limit // 4]] if limit >= 4 else []  # a character has four bytes at most
            return
        yield piece
        limit -= size


def until_characters(pieces: Iterable[str | None], every: int | None, limit: int) -> Pieces:
    """The beginning of the text, until the documents that are not held out have this many characters."""
    number = 0
    for piece in pieces:
        yield piece
        number += piece is None
        limit -= len(piece or "") if every is None or number % every else 0
        if limit <= 0:
            return


def sample(pieces: Pieces, share: float) -> Pieces:
    """Of the pieces of text, this share, spread evenly; of the ends of documents all."""
    number = 0
    for piece in pieces:
        if piece is not None:
            number += 1
        if piece is None or int(number * share) > int((number - 1) * share):
            yield piece


def share_of(count: int, share: float) -> int:
    """How many of `count` are for validation: at least one, and at least one is left."""
    return min(max(round(count * share), 1), count - 1)


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
