"""The table by which kernels know their memory: an int64 array with the address and size of each span, then numbers.

Kernels pass the table's address around. Arrays as arguments would cost a reference count at each call.
"""

from llamita.jit.language import helper
from llamita.jit.spans import Span, constants, i64, set_i64

KINDS, PAGES, BLOCKS, BYTE_IDS, BYTE_PAIRS, PAIRS, BYTES, STARTS, MASKS = constants(0, 9)  # shared by all workspaces
TEXT, WORDS, LONGER, ARENA, IDS, PARTS, OFFERS, BEFORE, AFTER = constants(9, 18)  # of one workspace
(FREQUENT,) = constants(18, 19)  # of one, too
CELLS, OWNERS, WEIGHTS, POSITIONS, RECORDS, LOOKUP, HEAP, NOTES, NEIGHBOURS, MERGES = constants(19, 29)  # of training
PATTERN, WHOLE, LONGEST_PIECE, CONSUMED, WORDS_LEFT, LONGER_LEFT, ARENA_USED = constants(58, 65)
PIECES, PIECE_BYTES, BY_BYTES, LEAST, TOKENS, IN_POSITIONS, IN_RECORDS, IN_HEAP, IN_NOTES, FULL = constants(65, 75)
(TABLE_SIZE,) = constants(75, 76)
(ZERO,) = constants(0, 1)


@helper
def listed(table: int) -> Span:
    """The table itself as a span."""
    return Span(table, 8 * TABLE_SIZE)


@helper
def span(table: int, which: int) -> Span:
    """The span with this number in the table."""
    return Span(i64(listed(table), 2 * which), i64(listed(table), 2 * which + 1))


@helper
def number(table: int, which: int) -> int:
    """One of the numbers after the spans."""
    return i64(listed(table), which)


@helper
def set_number(table: int, which: int, value: int) -> None:
    """Set one of the numbers after the spans."""
    set_i64(listed(table), which, value)
