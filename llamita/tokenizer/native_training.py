"""Learning merges at native speed: the memory of the kernels that count pieces and merge pairs."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from queue import Queue

import numpy as np

from llamita.tokenizer.kernels import counting, learning, memory, merging
from llamita.tokenizer.native import (
    CHUNK,
    PADDING,
    PATTERNS,
    address,
    character_end,
    class_tables,
    list_arrays,
    piece_masks,
    put_text,
)
from llamita.tokenizer.special import SpecialTokens
from llamita.tokenizer.streaming import independent_blocks
from llamita.tokenizer.training_rules import MergeRules, Progress

KERNELS = *counting.COUNTING, *learning.LEARNING
AT_A_TIME = 256  # merges between reports
FIRST_ARENA = 1 << 20  # bytes for longer pieces
SLOTS = 1 << 16  # of each table of pieces, at first
MOST_FULL = 3  # quarters of them
RECORDS = 1 << 17  # initial capacity in pairs: all of two bytes, and as many again
TOKENS = 1 << 15  # initial capacity in tokens


def learn(
    documents: Iterable[Iterable[str]],
    pattern: str,
    special: SpecialTokens,
    rules: MergeRules,
    progress: Progress,
    threads: int,
) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """Documents, each as strings -> the bytes of all ids, and the merges; as `plain_training.learn`."""
    for kernel in KERNELS:
        kernel.compile()
    counters = [PieceCounter(pattern) for _ in range(threads)]
    blocks = chain.from_iterable(independent_blocks(strings, special) for strings in documents)
    if threads == 1:
        for block in blocks:
            counters[0].count(block)
    else:
        _count_in_threads(blocks, counters)
    first, *others = counters
    while others:
        first.add(others.pop())
    merger = PairMerger(first, rules)
    more = merger.most > 0
    while more:
        more = merger.merge(AT_A_TIME)
        progress(merger.made, rules.merges)
    return merger.result()


def _count_in_threads(blocks: Iterable[str], counters: "list[PieceCounter]") -> None:
    """Let each counter take the next block when it has finished one; kernels run concurrently."""
    waiting: Queue[str | None] = Queue(maxsize=len(counters))

    def work(counter: PieceCounter) -> None:
        try:
            while (block := waiting.get()) is not None:
                counter.count(block)
        except BaseException:
            while waiting.get() is not None:  # else the thread that puts blocks would wait forever
                pass
            raise

    with ThreadPoolExecutor(len(counters)) as pool:
        done = [pool.submit(work, counter) for counter in counters]
        try:
            for block in blocks:
                waiting.put(block)
        finally:
            for _ in counters:
                waiting.put(None)
    for future in done:
        future.result()


class PieceCounter:
    """How often each piece of a text occurs. Memory grows with the bytes of distinct pieces."""

    def __init__(self, pattern: str):
        kinds, pages, blocks = class_tables()
        self.table = np.zeros(memory.TABLE_SIZE, dtype=np.int64)
        self.table[memory.PATTERN] = PATTERNS[pattern]
        self.arrays: dict[int, np.ndarray] = {}
        self._numbers = self.table.data
        self._use(
            {
                memory.KINDS: kinds,
                memory.PAGES: pages,
                memory.BLOCKS: blocks,
                memory.MASKS: piece_masks(),
                memory.WORDS: np.zeros((SLOTS, 4), dtype=np.int64),
                memory.LONGER: np.zeros((SLOTS, 2), dtype=np.int64),
                memory.ARENA: np.zeros(FIRST_ARENA, dtype=np.uint8),
            }
        )
        self._numbers[memory.WORDS_LEFT] = self._numbers[memory.LONGER_LEFT] = MOST_FULL * SLOTS // 4
        self._allocate(CHUNK)

    def count(self, text: str) -> None:
        """Count the pieces of a text."""
        data = memoryview(text.encode("utf-8"))
        start, size = 0, CHUNK
        while start < len(data):
            end = character_end(data, start + size)
            fits = self._count_chunk(data[start:end], final=end == len(data))
            consumed = self._numbers[memory.CONSUMED]
            start += consumed
            if not fits:
                self._grow(len(data))
            else:  # doubled while a piece has no end: see `_Workspace.encode`
                size = CHUNK if consumed else 2 * size

    def add(self, other: "PieceCounter") -> None:
        """Add the counts of `other`."""
        self._allocate(max(self._size, other._size))
        while not counting.add_pieces(address(self.table), address(other.table)):
            self._grow(0)

    def _count_chunk(self, text: memoryview, final: bool) -> int:
        size = len(text)
        if size > self._size:
            self._allocate(size)
        put_text(self._text, text)
        return counting.count_pieces(address(self.table), size, int(final))

    def _allocate(self, size: int) -> None:
        self._size, text = size, np.empty(size + PADDING, dtype=np.uint8)
        self._text = text.data
        self._use({memory.TEXT: text})

    def _grow(self, longest: int) -> None:
        """Double what is full."""
        numbers, words, longer = self._numbers, self.arrays[memory.WORDS], self.arrays[memory.LONGER]
        if numbers[memory.WORDS_LEFT] and numbers[memory.LONGER_LEFT]:
            arena = self.arrays[memory.ARENA]
            self._use({memory.ARENA: enlarged(arena, 2 * len(arena) + longest)})
            return
        numbers[memory.WORDS_LEFT] += MOST_FULL * len(words) // 4
        numbers[memory.LONGER_LEFT] += MOST_FULL * len(longer) // 4
        twice = 2 * len(words)
        self._use({memory.WORDS: np.zeros((twice, 4), np.int64), memory.LONGER: np.zeros((twice, 2), np.int64)})
        counting.move_pieces(address(self.table), address(words), words.nbytes, address(longer), longer.nbytes)

    def _use(self, arrays: dict[int, np.ndarray]) -> None:
        self.arrays |= arrays
        list_arrays(self.table, arrays)


class PairMerger:
    """Merges the pairs of counted pieces, the most frequent first. Ids: the 256 bytes, then the merges.

    Memory grows with the pieces and the merges that are made, not with those that were asked for.

        most   the most merges there can be: each makes some piece shorter by a token
        made   how many there are
    """

    def __init__(self, counter: PieceCounter, rules: MergeRules):
        """`counter` must not be used afterwards: its tables are freed."""
        self._table, self._arrays = counter.table, counter.arrays
        self._numbers = numbers = counter.table.data
        self.most = min(rules.merges, numbers[memory.PIECE_BYTES] - numbers[memory.PIECES])
        self._capacity = min(256 + self.most, TOKENS)
        cells = numbers[memory.PIECES] + numbers[memory.PIECE_BYTES] + 1
        numbers[memory.BY_BYTES], numbers[memory.LEAST] = rules.tie_break == "bytes", rules.min_frequency
        numbers[memory.TOKENS] = 256
        self._use({
            memory.CELLS: np.zeros(cells, np.uint32),
            memory.OWNERS: np.zeros(cells, np.uint32),
            memory.WEIGHTS: np.zeros(numbers[memory.PIECES], np.int64),
        })  # fmt: skip
        counting.lay_out(address(self._table))
        for which in (memory.WORDS, memory.LONGER, memory.ARENA, memory.TEXT):
            del self._arrays[which]
        self._use({
            memory.STARTS: np.arange(self._capacity + 1),
            memory.BYTES: enlarged(np.arange(256, dtype=np.uint8), 8 * self._capacity),
            memory.POSITIONS: np.zeros(2 * cells, np.uint32),
            memory.RECORDS: np.zeros(RECORDS * learning.RECORD, np.int64),
            memory.LOOKUP: np.full(4 * RECORDS, -1),
            memory.HEAP: np.zeros(RECORDS, np.int64),
            memory.NOTES: np.zeros(RECORDS, np.int64),
            memory.NEIGHBOURS: np.zeros(4 * self._capacity, np.int64),
            memory.MERGES: np.zeros(self._capacity, np.int64),
        })  # fmt: skip
        learning.count_pairs(address(self._table), cells)

    @property
    def made(self) -> int:
        """How many merges there are."""
        return self._numbers[memory.TOKENS] - 256

    def merge(self, most: int) -> bool:
        """Make up to `most` more merges -> whether there may be more after that."""
        numbers, goal = self._numbers, min(self.most, self.made + most)
        self._reserve(256 + goal)
        while self.made < goal:
            numbers[memory.FULL] = -1
            learning.merge_pairs(address(self._table), goal - self.made)
            if numbers[memory.FULL] >= 0:
                self._grow(numbers[memory.FULL])
            elif self.made < goal:
                return False
        return self.made < self.most

    def result(self) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
        """The bytes of every id, and the merges."""
        starts, stored = self._arrays[memory.STARTS].tolist(), self._arrays[memory.BYTES].tobytes()
        tokens = [stored[starts[i] : starts[i + 1]] for i in range(256 + self.made)]
        pairs = self._arrays[memory.MERGES][: self.made].tolist()
        return tokens, [(tokens[pair >> 32], tokens[pair & merging.LOW_32]) for pair in pairs]

    def _reserve(self, tokens: int) -> None:
        """Enlarge what has an entry per token, to hold this many."""
        if tokens > self._capacity:
            self._capacity = max(tokens, 2 * self._capacity)
            entries = {memory.STARTS: 1, memory.NEIGHBOURS: 4, memory.MERGES: 1}
            self._use({which: enlarged(self._arrays[which], n * self._capacity + 1) for which, n in entries.items()})

    def _grow(self, which: int) -> None:
        """Double what is full, and with the records what lists them."""
        array = self._arrays[which]
        self._use({which: enlarged(array, 2 * len(array))})
        if which == memory.RECORDS:
            lookup, heap = self._arrays[memory.LOOKUP], self._arrays[memory.HEAP]
            self._use({memory.LOOKUP: np.full(2 * len(lookup), -1), memory.HEAP: enlarged(heap, 2 * len(heap))})
            learning.list_records(address(self._table))

    def _use(self, arrays: dict[int, np.ndarray]) -> None:
        self._arrays |= arrays
        list_arrays(self._table, arrays)


def enlarged(array: np.ndarray, size: int) -> np.ndarray:
    """A copy of an array, extended with zeros to `size` items."""
    larger = np.zeros(size, dtype=array.dtype)
    larger[: len(array)] = array
    return larger
