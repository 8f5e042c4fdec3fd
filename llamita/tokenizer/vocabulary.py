"""Tokens and merges as numbers, for the kernels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and merges, as numbers.

    pattern       the name of the split pattern
    byte_ids      uint32 (256,): the id of each byte. A byte that is no token has vocab_size + byte, which no token has
    pairs         int64 (pairs, 2): left << 32 | right, and what it becomes, rank << 32 | id; of duplicates, the first
    tokens        the bytes of each id, b"" for unused ids
    ordinary      bool (vocab_size,): whether text may become the id: not special, no duplicate of another
    whole         whether a piece that is a token is never cut
    """

    pattern: str
    byte_ids: np.ndarray
    pairs: np.ndarray
    tokens: list[bytes]
    ordinary: np.ndarray
    whole: bool


def number_vocabulary(
    pattern: str,
    tokens: Mapping[int, bytes],
    ids: Mapping[bytes, int],
    merge_ranks: Mapping[tuple[bytes, bytes], int] | None,
    whole: bool,
) -> Vocabulary:
    """The numbers of a vocabulary; without `merge_ranks`, ids are ranks.

    tokens: id -> bytes, of special tokens too. ids: bytes -> id, of what text may become.
    """
    vocab_size = max(tokens, default=-1) + 1
    numbers = {bytes([value]): vocab_size + value for value in range(256)} | dict(ids)
    pairs = _pairs_of_ranks(ids, numbers) if merge_ranks is None else _pairs_of_merges(merge_ranks, ids, numbers)
    ordinary = np.zeros(vocab_size, dtype=bool)
    ordinary[list(ids.values())] = True
    return Vocabulary(
        pattern,
        np.array([numbers[bytes([value])] for value in range(256)], dtype=np.uint32),
        np.array(list(pairs), dtype=np.int64).reshape(-1, 2),
        [tokens.get(token_id, b"") for token_id in range(vocab_size)],
        ordinary,
        whole,
    )


def _pairs_of_merges(
    ranks: Mapping[tuple[bytes, bytes], int], ids: Mapping[bytes, int], numbers: Mapping[bytes, int]
) -> Iterator[tuple[int, int]]:
    """Every merge; one whose parts are neither tokens nor bytes never applies."""
    for (left, right), rank in ranks.items():
        if left in numbers and right in numbers:
            yield numbers[left] << 32 | numbers[right], rank << 32 | ids[left + right]


def _pairs_of_ranks(ids: Mapping[bytes, int], numbers: Mapping[bytes, int]) -> Iterator[tuple[int, int]]:
    """Every cut of a token into two: whatever joins to a token merges, not only the two that it was once made of."""
    for token, token_id in ids.items():
        for place in range(1, len(token)):
            left, right = numbers.get(token[:place]), numbers.get(token[place:])
            if left is not None and right is not None:
                yield left << 32 | right, token_id << 32 | token_id
