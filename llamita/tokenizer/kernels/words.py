"""The piece cache: each piece of up to 128 bytes is merged once.

WORDS is a hash table of pieces of up to 15 bytes with up to 4 tokens, 32 bytes each: the bytes and their number as a
key, which is the whole piece (two pieces never have the same), then the ids, with their number in the highest bits of
the first. A piece is read, looked up and written with a few 64-bit loads and stores, without a loop. FREQUENT is a
direct-mapped cache of the most recent of them, which holds nine of ten lookups and fits into a core's own cache.

LONGER has (hash, place << 32 | number of ids) of all other pieces; `place` in ARENA has the number of bytes, the bytes,
padded to a multiple of eight, and the ids.

All begin with the pieces that are tokens themselves, and are reset to that when they are full.
"""

from llamita.jit.language import helper
from llamita.jit.spans import Span, constants, eight, i64, set_eight, set_i64, set_u32, u32
from llamita.tokenizer.kernels.memory import (
    ARENA,
    ARENA_USED,
    IDS,
    LONGER,
    LONGER_LEFT,
    LONGEST_PIECE,
    PARTS,
    TEXT,
    WORDS,
    WORDS_LEFT,
    number,
    set_number,
    span,
)  # fmt: skip
from llamita.tokenizer.kernels.merging import LOW_32, merge_piece, scrambled

WORD_BYTES, WORD_IDS = 15, 4
LONGEST = 128
"""Bytes of the longest piece that is cached, unless it is a token."""
COUNT_BIT = 28  # of the first id of a word; ids are below 2^28
(FREQUENT_WORDS,) = constants(4096, 4097)
"""Slots of FREQUENT, each for one word; WORDS has all of them, too."""
MOST_ARENA = 8 + LONGEST + 4 * LONGEST
"""Bytes of ARENA that a piece takes at most."""


@helper
def word_key(text: Span, i: int, size: int, masks: Span) -> tuple[int, int]:
    """The key of the piece of `size` bytes, up to 15, at i: (its first eight bytes, the others and its size)."""
    return eight(text, i) & i64(masks, 2 * size), eight(text, i + 8) & i64(masks, 2 * size + 1) | size << 56


@helper
def word_hash(low: int, high: int) -> int:
    """A hash of a key."""
    return scrambled(low ^ high * -7723592293110705685) >> 32


@helper
def word_slot(words: Span, low: int, high: int) -> int:
    """The byte offset in WORDS of a key, or of the empty slot where it belongs."""
    mask = (words.size >> 5) - 1
    slot = word_hash(low, high) & mask
    while True:
        found = eight(words, slot << 5 | 8)
        if found == 0 or (found == high and eight(words, slot << 5) == low):
            return slot << 5
        slot = slot + 1 & mask


@helper
def remember_word(table: int, low: int, high: int, count: int) -> None:
    """Insert the first `count` ids of PARTS for a key that is not there."""
    if number(table, WORDS_LEFT) == 0:
        return
    words, parts = span(table, WORDS), span(table, PARTS)
    at = word_slot(words, low, high)
    set_eight(words, at, low)
    set_eight(words, at + 8, high)
    for k in range(count):
        set_u32(words, (at >> 2) + 4 + k, u32(parts, k) | (count << COUNT_BIT if k == 0 else 0))
    set_number(table, WORDS_LEFT, number(table, WORDS_LEFT) - 1)


@helper
def word_at(text: Span, i: int, size: int, eighth: int) -> int:
    """Bytes 8 · eighth to 8 · eighth + 7 of the piece of `size` bytes at i as a number, zeros after its end."""
    left = size - 8 * eighth
    found = eight(text, i + 8 * eighth)
    return found if left >= 8 else found & (1 << 8 * left) - 1


@helper
def hash_of(text: Span, i: int, size: int) -> int:
    """A hash of the piece of `size` bytes at i, never 0, which marks an empty slot."""
    h = size
    for eighth in range(size + 7 >> 3):
        h = scrambled(h ^ word_at(text, i, size, eighth))
        h ^= h >> 32
    return h | 1


@helper
def is_there(table: int, place: int, i: int, size: int) -> bool:
    """Whether the piece at `place` of ARENA is that at i of the text."""
    text, arena = span(table, TEXT), span(table, ARENA)
    eighth, eighths = 0, size + 7 >> 3 if i64(arena, place) == size else -1
    while eighth < eighths and i64(arena, place + 1 + eighth) == word_at(text, i, size, eighth):
        eighth += 1
    return eighth == eighths


@helper
def longer_slot(table: int, hashed: int, i: int, size: int) -> int:
    """The slot of a piece in LONGER, or the empty one where it belongs."""
    longer = span(table, LONGER)
    mask = (longer.size >> 4) - 1
    slot = hashed >> 32 & mask
    while True:
        found = i64(longer, 2 * slot)
        if found == 0:
            return slot
        if found == hashed and is_there(table, i64(longer, 2 * slot + 1) >> 32, i, size):
            return slot
        slot = slot + 1 & mask


@helper
def keep_piece(table: int, place: int, i: int, size: int) -> int:
    """Write the piece at i to `place` of ARENA: its size, then its bytes, padded -> the place after it."""
    text, arena = span(table, TEXT), span(table, ARENA)
    eighths = size + 7 >> 3
    set_i64(arena, place, size)
    for eighth in range(eighths):
        set_i64(arena, place + 1 + eighth, word_at(text, i, size, eighth))
    return place + 1 + eighths


@helper
def remember_longer(table: int, hashed: int, i: int, size: int, count: int) -> None:
    """Insert the first `count` ids of PARTS for the piece of `size` bytes at i, which is not there."""
    longer, arena, parts = span(table, LONGER), span(table, ARENA), span(table, PARTS)
    place = number(table, ARENA_USED)
    end = place + 1 + (size + 7 >> 3) + (count + 1 >> 1)
    if number(table, LONGER_LEFT) == 0 or 8 * end > arena.size:
        return
    slot = longer_slot(table, hashed, i, size)
    set_i64(longer, 2 * slot, hashed)
    set_i64(longer, 2 * slot + 1, place << 32 | count)
    first = keep_piece(table, place, i, size)
    for k in range(count):
        set_u32(arena, 2 * first + k, u32(parts, k))
    set_number(table, ARENA_USED, end)
    set_number(table, LONGER_LEFT, number(table, LONGER_LEFT) - 1)


@helper
def take(ids: Span, produced: int, parts: Span, first: int, count: int) -> int:
    """Append `count` ids to IDS -> the new number of ids."""
    for k in range(count):
        set_u32(ids, produced + k, u32(parts, first + k))
    return produced + count


@helper
def longer_ids(table: int, i: int, size: int, produced: int) -> int:
    """Append the ids of a piece that WORDS does not have -> the new number of ids."""
    ids, parts = span(table, IDS), span(table, PARTS)
    if size > number(table, LONGEST_PIECE):
        return take(ids, produced, parts, 0, merge_piece(table, i, size))
    hashed = hash_of(span(table, TEXT), i, size)
    longer = span(table, LONGER)
    slot = longer_slot(table, hashed, i, size)
    if i64(longer, 2 * slot) != 0:
        about = i64(longer, 2 * slot + 1)
        first = 2 * ((about >> 32) + 1 + (size + 7 >> 3))
        return take(ids, produced, span(table, ARENA), first, about & LOW_32)
    count = merge_piece(table, i, size)
    if size <= LONGEST:
        remember_longer(table, hashed, i, size, count)
    return take(ids, produced, parts, 0, count)


@helper
def new_word_ids(table: int, i: int, size: int, low: int, high: int, produced: int) -> int:
    """Append the ids of a piece of up to 15 bytes that WORDS does not have -> the new number of ids."""
    if size > 4:  # else it has at most 4 tokens, so that it can only be in WORDS
        hashed = hash_of(span(table, TEXT), i, size)
        if i64(span(table, LONGER), 2 * longer_slot(table, hashed, i, size)) != 0:
            return longer_ids(table, i, size, produced)
    count = merge_piece(table, i, size)
    if count <= WORD_IDS:
        remember_word(table, low, high, count)
    else:
        remember_longer(table, hash_of(span(table, TEXT), i, size), i, size, count)
    return take(span(table, IDS), produced, span(table, PARTS), 0, count)
