"""Count the pieces of a text, and lay them out for learning.

Pieces are counted in the hash tables WORDS and LONGER (`words.py`), with their count in place of their ids. Then all
different pieces are laid out one after another in CELLS, one cell per byte, with EDGE between them.
"""

from llamita.jit.language import helper
from llamita.jit.machine_code import Kernel
from llamita.jit.spans import Span, byte, eight, i64, set_eight, set_i64, set_u32
from llamita.tokenizer.kernels.memory import (
    ARENA,
    ARENA_USED,
    BLOCKS,
    CELLS,
    CONSUMED,
    KINDS,
    LONGER,
    LONGER_LEFT,
    MASKS,
    OWNERS,
    PAGES,
    PATTERN,
    PIECE_BYTES,
    PIECES,
    TEXT,
    WEIGHTS,
    WORDS,
    WORDS_LEFT,
    ZERO,
    number,
    set_number,
    span,
)  # fmt: skip
from llamita.tokenizer.kernels.pieces import Text, piece_end, settled
from llamita.tokenizer.kernels.words import WORD_BYTES, hash_of, keep_piece, longer_slot, word_key, word_slot

EDGE = 0xFFFFFFFF
"""The cell between two pieces."""


@Kernel
def count_pieces(table: int, size: int, final: int) -> int:
    """Count the pieces of the first `size` bytes of TEXT -> 0 where the tables are full, else 1.

    If not `final`, more text follows, and the pieces that it may change are left. Sets CONSUMED to the bytes counted.
    """
    text = Text(span(table, TEXT), span(table, KINDS), span(table, PAGES), span(table, BLOCKS))
    masks, pattern = span(table, MASKS), number(table, PATTERN)
    limit = size if final else settled(text, size)
    i, fits = ZERO, True
    while i < limit:
        j = piece_end(text, i, pattern)
        fits = has_space(table, j - i)
        if j > limit or not fits:
            break
        length = j - i
        if length <= WORD_BYTES:
            low, high = word_key(text.bytes, i, length, masks)
            count_word(table, low, high, 1)
        else:
            count_longer(table, i, length, 1)
        i = j
    set_number(table, CONSUMED, i)
    return 1 if fits else 0


@helper
def has_space(table: int, size: int) -> bool:
    """Whether the tables have space for a new piece of `size` bytes."""
    place = 8 * (number(table, ARENA_USED) + 2 + (size + 7 >> 3))
    return number(table, WORDS_LEFT) > 0 and number(table, LONGER_LEFT) > 0 and place <= span(table, ARENA).size


@helper
def new_piece(table: int, size: int) -> None:
    """Note that there is another piece to lay out."""
    set_number(table, PIECES, number(table, PIECES) + 1)
    set_number(table, PIECE_BYTES, number(table, PIECE_BYTES) + size)


@helper
def count_word(table: int, low: int, high: int, count: int) -> None:
    """Add `count` to the count of the piece of up to 15 bytes with this key."""
    words = span(table, WORDS)
    at = word_slot(words, low, high)
    if eight(words, at + 8) == 0:
        set_eight(words, at, low)
        set_eight(words, at + 8, high)
        set_number(table, WORDS_LEFT, number(table, WORDS_LEFT) - 1)
        new_piece(table, high >> 56)
    set_eight(words, at + 16, eight(words, at + 16) + count)


@helper
def count_longer(table: int, i: int, size: int, count: int) -> None:
    """Add `count` to the count of the longer piece at i of TEXT, which follows its bytes in ARENA."""
    hashed = hash_of(span(table, TEXT), i, size)
    slot = longer_slot(table, hashed, i, size)
    longer, arena = span(table, LONGER), span(table, ARENA)
    if i64(longer, 2 * slot) == 0:
        place = number(table, ARENA_USED)
        set_i64(longer, 2 * slot, hashed)
        set_i64(longer, 2 * slot + 1, place << 32)
        end = keep_piece(table, place, i, size)
        set_i64(arena, end, 0)
        set_number(table, ARENA_USED, end + 1)
        set_number(table, LONGER_LEFT, number(table, LONGER_LEFT) - 1)
        new_piece(table, size)
    counted = (i64(longer, 2 * slot + 1) >> 32) + 1 + (size + 7 >> 3)
    set_i64(arena, counted, i64(arena, counted) + count)


@Kernel
def add_pieces(table: int, other: int) -> int:
    """Move the counts of another table into this one -> 0 where this one is full, else 1. May be called again."""
    words, longer, arena = span(other, WORDS), span(other, LONGER), span(other, ARENA)
    for slot in range(0, words.size, 32):
        low, high, count = eight(words, slot), eight(words, slot + 8), eight(words, slot + 16)
        if count > 0:
            if not has_space(table, ZERO):
                return 0
            count_word(table, low, high, count)
            set_eight(words, slot + 16, 0)
    for slot in range(0, longer.size, 16):
        if eight(longer, slot) != 0:
            place = eight(longer, slot + 8) >> 32
            size = i64(arena, place)
            counted = place + 1 + (size + 7 >> 3)
            if not has_space(table, size):
                return 0
            for eighth in range(size + 7 >> 3):
                set_i64(span(table, TEXT), eighth, i64(arena, place + 1 + eighth))
            count_longer(table, ZERO, size, i64(arena, counted))
            set_i64(arena, counted, 0)
    return 1


@Kernel
def move_pieces(table: int, words: int, words_size: int, longer: int, longer_size: int) -> None:
    """Fill WORDS and LONGER, which are empty, from smaller ones. ARENA stays as it is."""
    old, new = Span(words, words_size), span(table, WORDS)
    for at in range(0, words_size, 32):
        if eight(old, at + 8) != 0:
            slot = word_slot(new, eight(old, at), eight(old, at + 8))
            for k in range(0, 24, 8):
                set_eight(new, slot + k, eight(old, at + k))
    old, new = Span(longer, longer_size), span(table, LONGER)
    mask = (new.size >> 4) - 1
    for at in range(0, longer_size, 16):
        if eight(old, at) != 0:
            slot = eight(old, at) >> 32 & mask
            while i64(new, 2 * slot) != 0:
                slot = slot + 1 & mask
            set_eight(new, 16 * slot, eight(old, at))
            set_eight(new, 16 * slot + 8, eight(old, at + 8))


@Kernel
def lay_out(table: int) -> None:
    """Fill CELLS, OWNERS (the piece of each cell) and WEIGHTS (the count of each piece)."""
    words, longer, arena = span(table, WORDS), span(table, LONGER), span(table, ARENA)
    at = piece = ZERO
    set_u32(span(table, CELLS), 0, EDGE)
    for slot in range(0, words.size, 32):
        high = eight(words, slot + 8)
        if high != 0:
            at = lay_piece(table, at, piece, words, slot, high >> 56, eight(words, slot + 16))
            piece += 1
    for slot in range(0, longer.size, 16):
        if eight(longer, slot) != 0:
            place = eight(longer, slot + 8) >> 32
            size = i64(arena, place)
            at = lay_piece(table, at, piece, arena, 8 * place + 8, size, i64(arena, place + 1 + (size + 7 >> 3)))
            piece += 1


@helper
def lay_piece(table: int, at: int, piece: int, source: Span, first: int, size: int, count: int) -> int:
    """Lay out a piece after the edge at `at` -> the edge after it."""
    cells, owners = span(table, CELLS), span(table, OWNERS)
    set_i64(span(table, WEIGHTS), piece, count)
    for k in range(size):
        set_u32(cells, at + 1 + k, byte(source, first + k))
        set_u32(owners, at + 1 + k, piece)
    set_u32(cells, at + 1 + size, EDGE)
    return at + 1 + size


COUNTING = count_pieces, add_pieces, move_pieces, lay_out
"""All kernels that count."""
