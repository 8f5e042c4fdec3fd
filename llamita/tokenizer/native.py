"""Byte-pair encoding at native speed: the memory of the kernels in `kernels/`.

`_Shared` is made from a vocabulary once, and then only read. A `_Workspace` belongs to one thread: its buffers, and
the pieces that it has cached. An encoder keeps a list of idle workspaces, so that threads never wait for one another.
"""

from functools import cache

import numpy as np

from llamita.tokenizer.character_classes import character_classes
from llamita.tokenizer.kernels import encoding, memory, merging, pieces
from llamita.tokenizer.kernels.words import FREQUENT_WORDS, LONGEST, MOST_ARENA, WORD_IDS
from llamita.tokenizer.plain import missing_byte
from llamita.tokenizer.vocabulary import Vocabulary

CHUNK = 1 << 18
"""Bytes of text encoded at a time: with their ids, they fit into the CPU cache."""
PADDING = 16  # bytes after a text, which kernels load but do not use
END = b"\xff" * PADDING  # these bytes, which end the text for all state machines
ARENA = 4 << 20  # bytes for longer pieces, besides the tokens
PATTERNS = {"gpt2": pieces.GPT2, "cl100k": pieces.CL100K, "llama3": pieces.LLAMA3}
CONSUMED = int(memory.CONSUMED)
LEFT = slice(int(memory.WORDS_LEFT), int(memory.ARENA_USED) + 1)  # of the table: the space left in WORDS, LONGER, ARENA
LETTERS = {"d": pieces.D, "e": pieces.E, "l": pieces.L, "m": pieces.M,
           "r": pieces.R, "s": pieces.S, "t": pieces.T, "v": pieces.V}  # fmt: skip


class NativeEncoder:
    """Encodes text without special tokens, and decodes. Threads may share one; forked processes may keep using it."""

    def __init__(self, vocabulary: Vocabulary):
        for kernel in encoding.ENCODING:
            kernel.compile()
        self._shared = _Shared(vocabulary)
        self._idle: list[_Workspace] = []

    def encode(self, text: str) -> np.ndarray:
        """The ids of a complete text, uint32."""
        data = memoryview(text.encode("utf-8"))
        with self._workspace() as workspace:
            return workspace.encode(data, final=True)[0]

    def encode_settled(self, text: str) -> tuple[np.ndarray, str]:
        """Of the beginning of a text: the ids that no continuation can change, uint32; the text that has none yet."""
        data = memoryview(text.encode("utf-8"))
        with self._workspace() as workspace:
            ids, consumed = workspace.encode(data, final=False)
        return ids, str(data[consumed:], "utf-8")

    def decode(self, ids: np.ndarray) -> bytes:
        """The bytes of ids, which are not negative. Raises `KeyError`, with the id, for one out of range."""
        if int(ids.max(initial=0)) >= self._shared.vocab_size:
            raise KeyError(int(ids.max()))
        ids = np.ascontiguousarray(ids, dtype=np.uint32)
        table, given, count = address(self._shared.table), address(ids), len(ids)
        size = encoding.decoded_size(table, given, count)
        text = np.empty(size + PADDING, dtype=np.uint8)
        encoding.decode(table, given, count, address(text), len(text))
        return text[:size].tobytes()

    def _workspace(self) -> "_Lent":
        return _Lent(self._shared, self._idle)


class _Lent:
    """A workspace for a `with` block: an idle one, or a new one."""

    __slots__ = ("idle", "workspace")

    def __init__(self, shared: "_Shared", idle: "list[_Workspace]"):
        self.idle = idle
        try:
            self.workspace = idle.pop()  # not checked first: another thread may take it in between
        except IndexError:
            self.workspace = _Workspace(shared)

    def __enter__(self) -> "_Workspace":
        return self.workspace

    def __exit__(self, *error: object) -> None:
        self.idle.append(self.workspace)


class _Shared:
    """The arrays of a vocabulary, a table that lists them, and the initial cache of every workspace."""

    def __init__(self, vocabulary: Vocabulary):
        self.vocab_size = len(vocabulary.tokens)
        self.lacks_bytes = bool((vocabulary.byte_ids >= self.vocab_size).any())
        lengths = np.array([len(token) for token in vocabulary.tokens], dtype=np.int64)
        kinds, pages, blocks = class_tables()
        self.arrays = {
            memory.KINDS: kinds,
            memory.PAGES: pages,
            memory.BLOCKS: blocks,
            memory.BYTE_IDS: np.ascontiguousarray(vocabulary.byte_ids, dtype=np.uint32),
            memory.BYTE_PAIRS: np.full(1 << 16, merging.NEVER, dtype=np.int64),
            memory.PAIRS: np.full(2 * power_of_two(2 * len(vocabulary.pairs)), -1, dtype=np.int64),
            memory.BYTES: np.frombuffer(b"".join(vocabulary.tokens) + bytes(PADDING), dtype=np.uint8),
            memory.STARTS: np.concatenate((np.zeros(1, dtype=np.int64), lengths.cumsum())),
            memory.MASKS: piece_masks(),
        }
        self.table = np.zeros(memory.TABLE_SIZE, dtype=np.int64)
        list_arrays(self.table, self.arrays)
        self.table[memory.PATTERN] = PATTERNS[vocabulary.pattern]
        self.table[memory.WHOLE] = vocabulary.whole
        self.table[memory.LONGEST_PIECE] = max(LONGEST, lengths.max(initial=0))
        self.remembered = self._empty_caches(lengths)
        self._enter(vocabulary, int(lengths.max(initial=0)))

    def _empty_caches(self, lengths: np.ndarray) -> dict[int, np.ndarray]:
        """Empty hash tables: tokens fill at most half of them, and pieces three quarters."""
        longer = lengths[lengths > WORD_IDS]  # a shorter token is a word
        words, longer_slots = power_of_two(2 * len(lengths)), power_of_two(2 * len(longer))
        self.table[memory.WORDS_LEFT], self.table[memory.LONGER_LEFT] = words * 3 // 4, longer_slots * 3 // 4
        return {
            memory.FREQUENT: np.zeros(32 * int(FREQUENT_WORDS), dtype=np.uint8),
            memory.WORDS: np.zeros(32 * words, dtype=np.uint8),
            memory.LONGER: np.zeros(2 * longer_slots, dtype=np.int64),
            memory.ARENA: np.zeros((ARENA + int(5 * longer.sum()) + 16 * len(longer)) // 8, dtype=np.int64),
        }

    def _enter(self, vocabulary: Vocabulary, longest: int) -> None:
        """Fill the tables from the vocabulary."""
        buffers = make_buffers(max(CHUNK, longest))
        list_arrays(self.table, self.remembered | buffers)
        pairs = np.ascontiguousarray(vocabulary.pairs, dtype=np.int64)
        encoding.enter_pairs(address(self.table), address(pairs), len(pairs))
        ordinary = vocabulary.ordinary.astype(np.uint32)
        encoding.enter_tokens(address(self.table), address(ordinary), len(ordinary))


class _Workspace:
    """What one thread encodes with."""

    def __init__(self, shared: _Shared):
        self._shared = shared
        self._table = shared.table.copy()
        self._remembered = {which: array.copy() for which, array in shared.remembered.items()}
        list_arrays(self._table, self._remembered)
        self._address, self._numbers = address(self._table), self._table.data
        self._encode_text = encoding.encode.run
        self._arena_size = self._remembered[memory.ARENA].nbytes
        self._allocate(CHUNK)

    def encode(self, text: memoryview, final: bool) -> tuple[np.ndarray, int]:
        """The ids of a text in UTF-8, or, if not `final`, of its beginning; and the bytes that were encoded."""
        parts: list[np.ndarray] = []
        start, size = 0, CHUNK
        while True:
            end = character_end(text, start + size)
            parts.append(self._encode_chunk(text[start:end], final and end == len(text)))
            consumed = self._numbers[CONSUMED]
            start += consumed
            if end == len(text):
                return parts[0] if len(parts) == 1 else np.concatenate(parts), start
            # Doubled while a piece has no end, so that a long one is not scanned again for every chunk.
            size = CHUNK if consumed else 2 * size

    def _encode_chunk(self, text: memoryview, final: bool) -> np.ndarray:
        size = len(text)
        if size > self._size:
            self._allocate(size)
        put_text(self._text, text)
        produced = self._encode_text(self._address, size, int(final))
        if self._is_full():
            self._forget()
        ids = self._ids[:produced].copy()
        if self._shared.lacks_bytes and (missing := ids[ids >= self._shared.vocab_size]).size:
            raise missing_byte(bytes([missing[0] - self._shared.vocab_size]))
        return ids

    def _allocate(self, size: int) -> None:
        self._size, self._buffers = size, make_buffers(size)
        list_arrays(self._table, self._buffers)
        self._text, self._ids = self._buffers[memory.TEXT].data, self._buffers[memory.IDS]

    def _is_full(self) -> bool:
        words_left, longer_left, arena_used = self._numbers[LEFT]
        return not words_left or not longer_left or self._arena_size - 8 * arena_used < MOST_ARENA

    def _forget(self) -> None:
        """Reset the caches to the tokens alone. That is cheaper than choosing what to evict."""
        for which, array in self._remembered.items():
            np.copyto(array, self._shared.remembered[which])
        self._table[LEFT] = self._shared.table[LEFT]


def make_buffers(size: int) -> dict[int, np.ndarray]:
    """Buffers for `size` bytes of text, its ids, and merging it, should it be a single piece."""
    return {
        memory.TEXT: np.empty(size + PADDING, dtype=np.uint8),
        memory.IDS: np.empty(size + WORD_IDS, dtype=np.uint32),
        memory.PARTS: np.empty(size, dtype=np.uint32),
        memory.OFFERS: np.empty(2 * size, dtype=np.int64),
        memory.BEFORE: np.empty(size, dtype=np.uint32),
        memory.AFTER: np.empty(size, dtype=np.uint32),
    }


def put_text(buffer: memoryview, text: memoryview) -> None:
    """Write a text into TEXT, and after it the bytes that mark its end."""
    size = len(text)
    buffer[:size] = text
    buffer[size : size + PADDING] = END


def list_arrays(table: np.ndarray, arrays: dict[int, np.ndarray]) -> None:
    """Enter address and size of each array into the table, which does not keep them alive."""
    for which, array in arrays.items():
        table[2 * which], table[2 * which + 1] = address(array), array.nbytes


def address(array: np.ndarray) -> int:
    """The address of an array in memory."""
    return array.__array_interface__["data"][0]


def power_of_two(least: int) -> int:
    """The smallest power of two that is no less, and no less than 65,536."""
    return 1 << max(16, (least - 1).bit_length())


def character_end(text: memoryview, end: int) -> int:
    """The first position from `end` on that is not inside a character of UTF-8."""
    if end >= len(text):
        return len(text)
    while end < len(text) and text[end] & 0xC0 == 0x80:
        end += 1
    return end


@cache
def class_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """KINDS uint8 (256,), PAGES uint16 (0x1100,) and BLOCKS uint8 (pages, 256) of the pinned table of characters."""
    points = np.full(0x110000, pieces.OTHER, dtype=np.uint8)
    kinds = {"letter": pieces.LETTER, "number": pieces.NUMBER, "whitespace": pieces.SPACE}
    for name, ranges in character_classes().items():
        letter = LETTERS.get(name.removeprefix("any_case_"), 0) << pieces.LETTER_BITS
        for first, last in ranges:
            points[first : last + 1] |= np.uint8(kinds.get(name, letter))
    points[[ord("\r"), ord("\n")]] = pieces.NEWLINE
    rows = [row.tobytes() for row in points.reshape(-1, 256)]
    blocks = {row: number for number, row in enumerate(dict.fromkeys(rows))}
    pages = np.array([blocks[row] for row in rows], dtype=np.uint16)
    by_byte = np.full(256, pieces.OTHER, dtype=np.uint8)
    by_byte[:128] = points[:128] & (1 << pieces.LETTER_BITS) - 1
    by_byte[0xC0:0xF8], by_byte[0xFF] = pieces.BEYOND, pieces.END
    return by_byte, pages, np.frombuffer(b"".join(blocks), dtype=np.uint8)


def piece_masks() -> np.ndarray:
    """int64 (16, 2): of the bytes 0 to 7 and 8 to 15 of a piece of that length, those that are its own."""
    masks = [[(1 << 8 * min(size, 8)) - 1, (1 << 8 * max(size - 8, 0)) - 1] for size in range(16)]
    return np.array(masks, dtype=np.uint64).view(np.int64)
