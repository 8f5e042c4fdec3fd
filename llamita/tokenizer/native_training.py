"""Learning merges at native speed: the memory of the kernels that count pieces and merge pairs."""

import numpy as np

from llamita.tokenizer import kernels
from llamita.tokenizer.native import (
    BEHIND,
    CHUNK,
    PADDING,
    PATTERNS,
    address,
    character_end,
    class_tables,
    compile_kernels,
    list_arrays,
    piece_masks,
)

FIRST_ARENA = 1 << 20  # bytes for longer pieces
SLOTS = 1 << 16  # of each table of pieces, at first
MOST_FULL = 3  # quarters of them
RECORDS = 1 << 17  # pairs that there is room for at first: all of two bytes, and as many again


class PieceCounter:
    """How often each piece of a text occurs. What it needs grows with the bytes of different pieces."""

    def __init__(self, pattern: str):
        compile_kernels()
        kinds, pages, blocks = class_tables()
        self.table = np.zeros(kernels.TABLE_SIZE, dtype=np.int64)
        self.table[kernels.PATTERN] = PATTERNS[pattern]
        self.arrays: dict[int, np.ndarray] = {}
        self._numbers = self.table.data
        self._use(
            {
                kernels.KINDS: kinds,
                kernels.PAGES: pages,
                kernels.BLOCKS: blocks,
                kernels.MASKS: piece_masks(),
                kernels.WORDS: np.zeros((SLOTS, 4), dtype=np.int64),
                kernels.LONGER: np.zeros((SLOTS, 2), dtype=np.int64),
                kernels.ARENA: np.zeros(FIRST_ARENA, dtype=np.uint8),
            }
        )
        self._numbers[kernels.WORDS_LEFT] = self._numbers[kernels.LONGER_LEFT] = MOST_FULL * SLOTS // 4
        self._make_room(CHUNK)

    def count(self, text: str) -> None:
        """Count the pieces of a whole text, or of a stretch between special tokens."""
        self._count(memoryview(text.encode("utf-8")), final=True)

    def count_settled(self, text: str) -> str:
        """Count the pieces of the beginning of a text that nothing which follows can change -> the rest."""
        data = memoryview(text.encode("utf-8"))
        return str(data[self._count(data, final=False) :], "utf-8")

    def _count(self, text: memoryview, final: bool) -> int:
        """Count the pieces of a text in UTF-8, or, if not `final`, of its beginning -> how many bytes these have."""
        start, size = 0, CHUNK
        while True:
            end = character_end(text, start + size)
            fits = self._count_chunk(text[start:end], final and end == len(text))
            consumed = self._numbers[kernels.CONSUMED]
            start += consumed
            if not fits:
                self._grow(len(text))
            elif end == len(text):
                return start
            else:  # doubled where a piece has no end yet: see `_Workspace.encode`
                size = CHUNK if consumed else 2 * size

    def _count_chunk(self, text: memoryview, final: bool) -> int:
        size = len(text)
        if size > self._size:
            self._make_room(size)
        self._text[:size] = text
        self._text[size : size + PADDING] = BEHIND
        return kernels.count_pieces(address(self.table), size, int(final))

    def _make_room(self, size: int) -> None:
        self._size, text = size, np.empty(size + PADDING, dtype=np.uint8)
        self._text = text.data
        self._use({kernels.TEXT: text})

    def _grow(self, longest: int) -> None:
        """Double what is full."""
        numbers, words, longer = self._numbers, self.arrays[kernels.WORDS], self.arrays[kernels.LONGER]
        if numbers[kernels.WORDS_LEFT] and numbers[kernels.LONGER_LEFT]:
            arena = self.arrays[kernels.ARENA]
            self._use({kernels.ARENA: enlarged(arena, 2 * len(arena) + longest)})
            return
        numbers[kernels.WORDS_LEFT] += MOST_FULL * len(words) // 4
        numbers[kernels.LONGER_LEFT] += MOST_FULL * len(longer) // 4
        twice = 2 * len(words)
        self._use({kernels.WORDS: np.zeros((twice, 4), np.int64), kernels.LONGER: np.zeros((twice, 2), np.int64)})
        kernels.move_pieces(address(self.table), address(words), words.nbytes, address(longer), longer.nbytes)

    def _use(self, arrays: dict[int, np.ndarray]) -> None:
        self.arrays |= arrays
        list_arrays(self.table, arrays)


class PairMerger:
    """Merges the pairs of counted pieces, the most frequent first. Ids: the 256 bytes, then the merges."""

    def __init__(self, counter: PieceCounter, merges: int, tie_break: str, min_frequency: int):
        """`counter` must not be used any more: its tables are given free. The other arguments are `train_bpe`'s."""
        self._table, self._arrays, self._merges = counter.table, counter.arrays, merges
        self._numbers = numbers = counter.table.data
        cells = numbers[kernels.PIECES] + numbers[kernels.PIECE_BYTES] + 1
        numbers[kernels.BY_BYTES], numbers[kernels.LEAST] = tie_break == "bytes", min_frequency
        numbers[kernels.TOKENS] = 256
        self._use({
            kernels.CELLS: np.zeros(cells, np.uint32),
            kernels.OWNERS: np.zeros(cells, np.uint32),
            kernels.WEIGHTS: np.zeros(numbers[kernels.PIECES], np.int64),
        })  # fmt: skip
        kernels.lay_out(address(self._table))
        for which in (kernels.WORDS, kernels.LONGER, kernels.ARENA, kernels.TEXT):
            del self._arrays[which]
        self._use({
            kernels.STARTS: np.arange(256 + merges + 1),
            kernels.BYTES: enlarged(np.arange(256, dtype=np.uint8), 8 * (256 + merges)),
            kernels.PLACES: np.zeros(2 * cells, np.uint32),
            kernels.RECORDS: np.zeros(RECORDS * kernels.RECORD, np.int64),
            kernels.LOOKUP: np.full(4 * RECORDS, -1),
            kernels.HEAP: np.zeros(RECORDS, np.int64),
            kernels.NOTES: np.zeros(RECORDS, np.int64),
            kernels.NEIGHBOURS: np.zeros(4 * (256 + merges), np.int64),
            kernels.MERGES: np.zeros(merges, np.int64),
        })  # fmt: skip
        kernels.count_pairs(address(self._table), cells)

    @property
    def made(self) -> int:
        """How many merges there are."""
        return self._numbers[kernels.TOKENS] - 256

    def merge(self, most: int) -> bool:
        """Make up to `most` more merges -> whether there may be more after that."""
        numbers, wanted = self._numbers, min(self._merges, self.made + most)
        while self.made < wanted:
            numbers[kernels.SHORT] = -1
            kernels.merge_pairs(address(self._table), wanted - self.made)
            if numbers[kernels.SHORT] >= 0:
                self._grow(numbers[kernels.SHORT])
            elif self.made < wanted:
                return False
        return self.made < self._merges

    def result(self) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
        """The bytes of every id, and the merges."""
        starts, stored = self._arrays[kernels.STARTS].tolist(), self._arrays[kernels.BYTES].tobytes()
        tokens = [stored[starts[i] : starts[i + 1]] for i in range(256 + self.made)]
        pairs = self._arrays[kernels.MERGES][: self.made].tolist()
        return tokens, [(tokens[pair >> 32], tokens[pair & kernels.LOW_32]) for pair in pairs]

    def _grow(self, which: int) -> None:
        """Double what is short, and with the records what lists them."""
        array = self._arrays[which]
        self._use({which: enlarged(array, 2 * len(array))})
        if which == kernels.RECORDS:
            lookup, heap = self._arrays[kernels.LOOKUP], self._arrays[kernels.HEAP]
            self._use({kernels.LOOKUP: np.full(2 * len(lookup), -1), kernels.HEAP: enlarged(heap, 2 * len(heap))})
            kernels.list_records(address(self._table))

    def _use(self, arrays: dict[int, np.ndarray]) -> None:
        self._arrays |= arrays
        list_arrays(self._table, arrays)


def enlarged(array: np.ndarray, size: int) -> np.ndarray:
    """The items of an array with zeros behind them, `size` in all."""
    larger = np.zeros(size, dtype=array.dtype)
    larger[: len(array)] = array
    return larger
