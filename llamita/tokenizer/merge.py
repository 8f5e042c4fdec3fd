"""The merge loop of byte-pair encoding (Sennrich et al., 2016): join the pair of lowest rank, again and again.

A piece begins as single bytes. Of all neighbouring pairs that have a rank, the lowest is joined (the leftmost, if
several share it), until no pair has one. Both functions here do exactly that; they differ in how they find the lowest.
"""

import heapq
from collections.abc import Callable
from itertools import pairwise

Rank = Callable[[bytes, bytes], float]
"""The rank of a pair of neighbours, NEVER if they don't merge."""

NEVER = float("inf")
LONG = 256
"""Bytes from which a heap pays. Nearly every piece is shorter than 20."""


def merge(piece: bytes, rank: Rank) -> list[bytes]:
    """The tokens of a piece, as bytes."""
    return merge_short(piece, rank) if len(piece) < LONG else merge_long(piece, rank)


def merge_short(piece: bytes, rank: Rank) -> list[bytes]:
    """Scans every pair for every merge: O(n²), but fastest for words."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    ranks = [rank(left, right) for left, right in pairwise(parts)]  # ranks[i] belongs to parts[i], parts[i + 1]
    while ranks and (lowest := min(ranks)) != NEVER:
        i = ranks.index(lowest)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        del ranks[i]
        if i > 0:
            ranks[i - 1] = rank(parts[i - 1], parts[i])
        if i < len(ranks):
            ranks[i] = rank(parts[i], parts[i + 1])
    return parts


def merge_long(piece: bytes, rank: Rank) -> list[bytes]:
    """The same merges with a heap and a linked list: O(n log n), for 100,000 equal letters."""
    parts = [piece[i : i + 1] for i in range(len(piece))]  # b"" once joined to the part before
    before, after = list(range(-1, len(parts) - 1)), list(range(1, len(parts) + 1))
    heap: list[tuple[float, int]] = []

    def push(i: int) -> None:
        """Offer the pair of part i and the one after it."""
        if i >= 0 and after[i] < len(parts) and (offer := rank(parts[i], parts[after[i]])) != NEVER:
            heapq.heappush(heap, (offer, i))

    for i in range(len(parts)):
        push(i)
    while heap:
        offered, i = heapq.heappop(heap)
        j = after[i]
        # An offer is stale if its pair has changed since; whatever replaced it has an offer of its own.
        if not parts[i] or j >= len(parts) or rank(parts[i], parts[j]) != offered:
            continue
        parts[i], parts[j] = parts[i] + parts[j], b""
        after[i] = after[j]
        if after[j] < len(parts):
            before[after[j]] = i
        push(before[i])
        push(i)
    return [part for part in parts if part]
