"""Memorization: the longest span of tokens in generated texts that also occurs in the training text."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CHUNK = 1 << 20  # tokens of the training text in memory at a time, with about 50 bytes each
SIEVE_BITS = 20
FACTOR = 0x9E3779B97F4A7C15  # of the rolling hash: every odd number has an inverse modulo 2^64


class CopiedSpan(NamedTuple):
    """`length` tokens: from `start` in text number `text`, and from `position` in the training text."""

    length: int
    text: int
    start: int
    position: int


def longest_copied_span(texts: Sequence[Sequence[int]], ids: np.ndarray, chunk: int = CHUNK) -> CopiedSpan:
    """The longest span of any of `texts` (ids each) that occurs in `ids` (tokens,); the first of the longest.

    One pass over `ids`, which may be mapped from a file of any size: memory depends only on `chunk` and the texts. The
    length is 0 if no token is shared. In each chunk, only spans longer than the longest so far are searched, by a
    rolling hash (Karp & Rabin, 1987); where the hashes match, tokens are compared one by one, to the end of the span.
    """
    rows = [np.asarray(text, dtype=np.uint64) for text in texts]
    longest = max(map(len, rows), default=0)
    best = CopiedSpan(0, 0, 0, 0)
    for first in range(0, len(ids), chunk):
        part = _Hashed(ids[first : first + chunk + longest - 1])  # overlaps the next, so that no span is split
        while found := _span_of(best.length + 1, rows, part):
            best = found._replace(position=first + found.position)
    return best


class _Hashed:
    """Tokens, with the hash of any window of them: Σ token[i + j] · FACTOR^j, modulo 2^64."""

    def __init__(self, tokens: np.ndarray):
        self.tokens = tokens.astype(np.uint64)
        powers = _powers(FACTOR, len(tokens))
        self._sums = np.concatenate([[np.uint64(0)], np.cumsum((self.tokens + np.uint64(1)) * powers)])
        self._inverses = _powers(pow(FACTOR, -1, 1 << 64), len(tokens))

    def windows(self, length: int) -> np.ndarray:
        """(tokens - length + 1,) uint64: the hash of the window of `length` at each position."""
        differences = self._sums[length:] - self._sums[:-length]
        return differences * self._inverses[: len(differences)]


def _powers(factor: int, count: int) -> np.ndarray:
    """factor^0, factor^1, … modulo 2^64."""
    powers = np.full(count, factor, dtype=np.uint64)
    powers[:1] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _span_of(length: int, rows: Sequence[np.ndarray], part: _Hashed) -> CopiedSpan | None:
    """A span of at least `length` tokens that rows and part share, extended to its end; None if there is none."""
    targets: dict[int, tuple[int, int]] = {}
    for number, row in enumerate(rows):
        if len(row) >= length:
            for start, value in enumerate(_Hashed(row).windows(length).tolist()):
                targets.setdefault(value, (number, start))
    if not targets or len(part.tokens) < length:
        return None
    hashes = part.windows(length)
    for position in _positions(hashes, np.array(list(targets), dtype=np.uint64)):
        number, start = targets[int(hashes[position])]
        shared = _shared(rows[number][start:], part.tokens[position:])
        if shared >= length:
            return CopiedSpan(shared, number, start, int(position))
    return None


def _positions(hashes: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Where `hashes` has one of `targets`. A table of their highest bits first excludes nearly all others."""
    shift = np.uint64(64 - SIEVE_BITS)
    sieve = np.zeros(1 << SIEVE_BITS, dtype=bool)
    sieve[targets >> shift] = True
    left = np.flatnonzero(sieve[hashes >> shift])
    return left[np.isin(hashes[left], targets)]


def _shared(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens a and b begin with in common."""
    both = min(len(a), len(b))
    differs = np.flatnonzero(a[:both] != b[:both])
    return int(differs[0]) if len(differs) else both
