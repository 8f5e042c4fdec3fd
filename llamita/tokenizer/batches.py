"""Documents to ids, many at a time: what one call, or one message to another process, encodes."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np

from llamita.tokenizer.base import Tokenizer, token_dtype

BATCH = 1 << 20
"""Characters in a batch: enough that a message costs little, and few enough to stay in the cache."""
BLOCK = 1 << 16
"""Ids that are collected before they are returned."""


class Encoded(NamedTuple):
    """Ids of consecutive documents, each with its end token. The first may have begun before, the last may continue.

    ids: (tokens,) of the tokenizer's dtype. ends: (documents that end here,) int64, offsets into `ids`.
    """

    ids: np.ndarray
    ends: np.ndarray


def encode_pieces(tokenizer: Tokenizer, pieces: Iterable[str | None]) -> Iterator[Encoded]:
    """Documents as strings, cut anywhere, with None after each document -> their ids, in blocks."""
    blocks, ends, size = [], [], 0
    for document in _documents(iter(pieces)):
        for block in chain(tokenizer.encode_document(document), (_end(tokenizer),)):
            blocks.append(block)
            size += len(block)
            if size >= BLOCK:
                yield _joined(tokenizer, blocks, ends)
                blocks, ends, size = [], [], 0
        ends.append(size)
    yield _joined(tokenizer, blocks, ends)


def encode_batch(tokenizer: Tokenizer, batch: Iterable[str | None]) -> Encoded:
    """Strings that can be encoded separately, with None after each document -> their ids."""
    blocks, ends, size, end = [], [], 0, _end(tokenizer)
    for string in batch:
        for block in (end,) if string is None else tokenizer.encode_document((string,)):
            blocks.append(block)
            size += len(block)
        if string is None:
            ends.append(size)
    return _joined(tokenizer, blocks, ends)


def batches(
    tokenizer: Tokenizer, pieces: Iterable[str | None], needed: Callable[[], int]
) -> Iterator[list[str | None]]:
    """Documents as for `encode_pieces` -> the same as batches for `encode_batch`, small where few tokens are needed."""
    batch, size = [], 0
    for document in _documents(iter(pieces)):
        for string in chain(_separable(tokenizer, document), (None,)):
            batch.append(string)
            size += len(string or "")
            if size >= min(BATCH, needed()):
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def characters(batch: Iterable[str | None]) -> int:
    """How much text a batch has."""
    return sum(len(string or "") for string in batch)


def _separable(tokenizer: Tokenizer, strings: Iterator[str]) -> Iterator[str]:
    """A document cut anywhere -> the same in strings that can be encoded separately. A single one need not be cut."""
    first, second = next(strings, ""), next(strings, None)
    return iter((first,)) if second is None else tokenizer.separable(chain((first, second), strings))


def _documents(pieces: Iterator[str | None]) -> Iterator[Iterator[str]]:
    """Each document as its strings, to be read to their end before the next one."""
    for piece in pieces:
        yield chain(() if piece is None else (piece,), iter(_until_end(pieces)))


def _until_end(pieces: Iterator[str | None]) -> Iterator[str]:
    for piece in pieces:
        if piece is None:
            return
        yield piece


def _end(tokenizer: Tokenizer) -> np.ndarray:
    """The end token, if there is one."""
    return np.array([] if tokenizer.end_id is None else [tokenizer.end_id], np.uint32)


def _joined(tokenizer: Tokenizer, blocks: list[np.ndarray], ends: list[int]) -> Encoded:
    ids = np.concatenate(blocks) if blocks else np.zeros(0)
    return Encoded(ids.astype(token_dtype(tokenizer.vocab_size), copy=False), np.array(ends, np.int64))
