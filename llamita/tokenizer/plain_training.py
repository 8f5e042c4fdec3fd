"""Learning merges in plain Python, to read, and as the reference for the kernels.

The text is cut into pieces once, and equal pieces are counted together. Each round then takes the most frequent pair
from a heap and rewrites only the pieces that hold it: the counts of all pairs stay correct without touching the rest.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

from llamita.tokenizer.patterns import Scanner
from llamita.tokenizer.special import SpecialTokens
from llamita.tokenizer.streaming import cut_stream
from llamita.tokenizer.training_rules import MergeRules, Progress

Pair = tuple[int, int]


def learn(
    documents: Iterable[Iterable[str]], pattern: str, special: SpecialTokens, rules: MergeRules, progress: Progress
) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """Documents, each as strings -> the bytes of all ids, and the merges."""
    trainer = _Trainer(_count_pieces(documents, Scanner(pattern), special), rules)
    while len(trainer.merges) < rules.merges and trainer.merge_next():
        progress(len(trainer.merges), rules.merges)
    return trainer.tokens, trainer.merges


def _count_pieces(documents: Iterable[Iterable[str]], scanner: Scanner, special: SpecialTokens) -> Counter[str]:
    """How often each piece occurs; special tokens are left out."""
    counts: Counter[str] = Counter()
    for strings in documents:
        for pieces, _ in cut_stream(strings, scanner, special):
            counts.update(pieces)
    return counts


class _Trainer:
    """The pieces as lists of ids, and for each pair its count and the pieces that may hold it."""

    def __init__(self, pieces: Counter[str], rules: MergeRules):
        self.tokens = [bytes([value]) for value in range(256)]
        self.merges: list[tuple[bytes, bytes]] = []
        self._order = _greatest_first if rules.tie_break == "bytes" else None
        self._places = [self._place(token_id) for token_id in range(256)]  # the rank of a token in ties
        self._min_frequency = rules.min_frequency
        self._pieces = [list(piece.encode("utf-8")) for piece in pieces]
        self._frequencies = list(pieces.values())
        self._counts: dict[Pair, int] = defaultdict(int)
        self._holders: dict[Pair, set[int]] = defaultdict(set)
        self._count_all()
        self._heap = [self._entry(pair) for pair in self._counts]
        heapq.heapify(self._heap)

    def merge_next(self) -> bool:
        """Merge the most frequent pair; False if there is none left that is frequent enough."""
        pair = self._most_frequent()
        if pair is None:
            return False
        left, right = self.tokens[pair[0]], self.tokens[pair[1]]
        self.merges.append((left, right))
        self.tokens.append(left + right)
        self._places.append(self._place(len(self.tokens) - 1))
        changed: set[Pair] = set()
        for number in self._holders.pop(pair):
            changed |= self._rewrite(number, pair, len(self.tokens) - 1)
        for other in changed:
            if self._counts[other] > 0:
                heapq.heappush(self._heap, self._entry(other))
        return True

    def _count_all(self) -> None:
        for number, (piece, frequency) in enumerate(zip(self._pieces, self._frequencies, strict=True)):
            for pair in pairwise(piece):
                self._counts[pair] += frequency
                self._holders[pair].add(number)

    def _most_frequent(self) -> Pair | None:
        """The heap's first entry that is not stale: a pair is pushed again whenever its count changes."""
        while self._heap:
            negative_count, _, _, pair = heapq.heappop(self._heap)
            if self._counts[pair] == -negative_count:
                return pair if -negative_count >= self._min_frequency else None
        return None

    def _rewrite(self, number: int, pair: Pair, new_id: int) -> set[Pair]:
        """Join the pair in one piece; returns the pairs whose counts changed."""
        old, frequency = self._pieces[number], self._frequencies[number]
        new = _join(old, pair, new_id)
        self._pieces[number] = new
        before, after = Counter(pairwise(old)), Counter(pairwise(new))
        before.subtract(after)
        changed = {other for other, lost in before.items() if lost}
        for other in changed:
            self._counts[other] -= before[other] * frequency
            # A piece that no longer holds a pair stays listed: visiting it in vain is cheaper than removing it.
            if before[other] < 0:
                self._holders[other].add(number)
        return changed

    def _entry(self, pair: Pair) -> tuple[int, object, object, Pair]:
        return -self._counts[pair], self._places[pair[0]], self._places[pair[1]], pair

    def _place(self, token_id: int) -> str | int:
        return token_id if self._order is None else self._order(self.tokens[token_id])


def _join(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    """`ids` with every occurrence of the pair, from left to right, replaced by `new_id`."""
    left, right = pair
    joined: list[int] = []
    i, last = 0, len(ids) - 1
    while i <= last:
        if ids[i] == left and i < last and ids[i + 1] == right:
            joined.append(new_id)
            i += 2
        else:
            joined.append(ids[i])
            i += 1
    return joined


def _greatest_first(token: bytes) -> str:
    """A string that sorts in the opposite order, since a heap pops the smallest: bytes mirrored, the end above all."""
    return "".join([chr(255 - byte) for byte in token]) + chr(256)
