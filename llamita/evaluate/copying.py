"""What a model has by heart: the longest run of tokens in its texts that stands in the training text, too."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CHUNK = 1 << 20  # tokens of the training text in memory at once, with about 50 bytes each
SIEVE_BITS = 20
FACTOR = 0x9E3779B97F4A7C15  # of the rolling hash: any odd number has an inverse modulo 2^64


class CopiedSpan(NamedTuple):
    """`length` tokens, from token `start` of text number `text` on and from token `place` of the training text on."""

    length: int
    text: int
    start: int
    place: int


def longest_copied_span(texts: Sequence[Sequence[int]], ids: np.ndarray, chunk: int = CHUNK) -> CopiedSpan:
    """The longest span of any of `texts` (ids each) that occurs in `ids` (tokens,); the first of the longest.

    One pass over `ids`, which may be mapped from a file of any size: memory grows with `chunk` and the texts alone. The
    length is 0 where no token is shared. Each chunk is only asked for spans longer than the longest so far, by a
    rolling hash (Karp & Rabin, 1987); what has the right hash is compared token by token, and followed to its end.
    """
    rows = [np.asarray(text, dtype=np.uint64) for text in texts]
    longest = max(map(len, rows), default=0)
    best = CopiedSpan(0, 0, 0, 0)
    for first in range(0, len(ids), chunk):
        part = _Hashed(ids[first : first + chunk + longest - 1])  # overlaps the next, so that no span is cut
        while found := _span_of(best.length + 1, rows, part):
            best = found._replace(place=first + found.place)
    return best


class _Hashed:
    """Tokens with the hash of any window of them at hand: Σ token[i + j] · FACTOR^j, modulo 2^64."""

    def __init__(self, tokens: np.ndarray):
        self.tokens = tokens.astype(np.uint64)
        powers = _powers(FACTOR, len(tokens))
        self._sums = np.concatenate([[np.uint64(0)], np.cumsum((self.tokens + np.uint64(1)) * powers)])
        self._inverses = _powers(pow(FACTOR, -1, 1 << 64), len(tokens))

    def windows(self, length: int) -> np.ndarray:
        """(tokens - length + 1,) uint64: the hash of the window of `length` at each place."""
        differences = self._sums[length:] - self._sums[:-length]
        return differences * self._inverses[: len(differences)]


def _powers(factor: int, count: int) -> np.ndarray:
    """factor^0, factor^1, … modulo 2^64."""
    powers = np.full(count, factor, dtype=np.uint64)
    powers[:1] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _span_of(length: int, rows: Sequence[np.ndarray], part: _Hashed) -> CopiedSpan | None:
    """A span of at least `length` tokens that rows and part share, as far as it goes; None where there is none."""
    wanted: dict[int, tuple[int, int]] = {}
    for number, row in enumerate(rows):
        if len(row) >= length:
            for start, value in enumerate(_Hashed(row).windows(length).tolist()):
                wanted.setdefault(value, (number, start))
    if not wanted or len(part.tokens) < length:
        return None
    hashes = part.windows(length)
    for place in _places(hashes, np.array(list(wanted), dtype=np.uint64)):
        number, start = wanted[int(hashes[place])]
        shared = _shared(rows[number][start:], part.tokens[place:])
        if shared >= length:
            return CopiedSpan(shared, number, start, int(place))
    return None


def _places(hashes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where `hashes` has one of `wanted`. A table of their highest bits sorts out nearly all of the others at once."""
    shift = np.uint64(64 - SIEVE_BITS)
    sieve = np.zeros(1 << SIEVE_BITS, dtype=bool)
    sieve[wanted >> shift] = True
    left = np.flatnonzero(sieve[hashes >> shift])
    return left[np.isin(hashes[left], wanted)]


def _shared(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens a and b begin with in common."""
    both = min(len(a), len(b))
    differs = np.flatnonzero(a[:both] != b[:both])
    return int(differs[0]) if len(differs) else both
