"""Learn merges: join the most frequent pair of neighbours, and again (Sennrich et al., 2016).

A token's id is in its first and its last cell of CELLS, so that its neighbours find it from either side; the cells
between are GONE. Every pair has a record with its count and the positions where it may be, in order. The record is made
once, when the younger of its two tokens is, since later merges only take positions away. So positions are checked when
the pair is merged, and counts in the heap when the pair comes first: only the counts in records are always right.
"""

from llamita.jit.language import helper
from llamita.jit.machine_code import Kernel
from llamita.jit.spans import byte, i64, set_byte, set_i64, set_u32, u32
from llamita.tokenizer.kernels.counting import EDGE
from llamita.tokenizer.kernels.memory import (
    BY_BYTES,
    BYTES,
    CELLS,
    FULL,
    HEAP,
    IN_HEAP,
    IN_NOTES,
    IN_POSITIONS,
    IN_RECORDS,
    LEAST,
    LOOKUP,
    MERGES,
    NEIGHBOURS,
    NOTES,
    OWNERS,
    POSITIONS,
    RECORDS,
    STARTS,
    TOKENS,
    WEIGHTS,
    number,
    set_number,
    span,
)  # fmt: skip
from llamita.tokenizer.kernels.merging import LOW_32, scrambled

GONE = 0xFFFFFFFE
"""A cell within a token of several bytes."""
PAIR, COUNT, PUSHED, FIRST, LENGTH, RECORD = 0, 1, 2, 3, 4, 5
"""The fields of a record: the pair, its count, the count when it was last pushed, its slice of POSITIONS; its size."""
LEFT, RIGHT = 0, 1
"""The side of the new token on which a neighbour is."""


@helper
def record_of(table: int, pair: int) -> int:
    """The index in RECORDS of the record of a pair; -1 if it has none."""
    lookup = span(table, LOOKUP)
    mask = (lookup.size >> 4) - 1
    slot = scrambled(pair) >> 32 & mask
    while i64(lookup, 2 * slot) != pair:
        if i64(lookup, 2 * slot) == -1:
            return -1
        slot = slot + 1 & mask
    return i64(lookup, 2 * slot + 1)


@helper
def list_record(table: int, record: int) -> None:
    """Insert a record into LOOKUP, the hash table of pairs."""
    lookup, pair = span(table, LOOKUP), i64(span(table, RECORDS), record + PAIR)
    mask = (lookup.size >> 4) - 1
    slot = scrambled(pair) >> 32 & mask
    while i64(lookup, 2 * slot) != -1:
        slot = slot + 1 & mask
    set_i64(lookup, 2 * slot, pair)
    set_i64(lookup, 2 * slot + 1, record)


@helper
def new_record(table: int, pair: int, count: int, first: int) -> int:
    """Make a record without positions -> its index in RECORDS."""
    records, record = span(table, RECORDS), number(table, IN_RECORDS)
    set_i64(records, record + PAIR, pair)
    set_i64(records, record + COUNT, count)
    set_i64(records, record + FIRST, first)
    set_i64(records, record + LENGTH, 0)
    set_number(table, IN_RECORDS, record + RECORD)
    list_record(table, record)
    return record


@helper
def add_position(table: int, record: int, position: int) -> None:
    """Add a position where the pair is."""
    records = span(table, RECORDS)
    length = i64(records, record + LENGTH)
    set_u32(span(table, POSITIONS), i64(records, record + FIRST) + length, position)
    set_i64(records, record + LENGTH, length + 1)


@Kernel
def count_pairs(table: int, cells_count: int) -> None:
    """Make the records of all pairs of bytes, and the heap, in two passes: counts, then positions."""
    cells, owners, weights = span(table, CELLS), span(table, OWNERS), span(table, WEIGHTS)
    records = span(table, RECORDS)
    for again in range(2):
        for at in range(1, cells_count - 1):
            left, right = u32(cells, at), u32(cells, at + 1)
            if left == EDGE or right == EDGE:
                continue
            record = record_of(table, left << 32 | right)
            if again:
                add_position(table, record, at)
                continue
            if record < 0:
                record = new_record(table, left << 32 | right, 0, 0)
            set_i64(records, record + COUNT, i64(records, record + COUNT) + i64(weights, u32(owners, at)))
            set_i64(records, record + FIRST, i64(records, record + FIRST) + 1)
        if again == 0:  # so far FIRST is the number of positions
            first = 0
            for record in range(0, number(table, IN_RECORDS), RECORD):
                length = i64(records, record + FIRST)
                set_i64(records, record + FIRST, first)
                first += length
            set_number(table, IN_POSITIONS, first)
    for record in range(0, number(table, IN_RECORDS), RECORD):
        push_record(table, record)


@helper
def compare_tokens(table: int, one: int, other: int) -> int:
    """Compare the bytes of two tokens -> above 0 where those of `one` are greater, below 0 where less, else 0."""
    starts, stored = span(table, STARTS), span(table, BYTES)
    a, b = i64(starts, one), i64(starts, other)
    a_end, b_end = i64(starts, one + 1), i64(starts, other + 1)
    while a < a_end and b < b_end and byte(stored, a) == byte(stored, b):
        a, b = a + 1, b + 1
    if a == a_end or b == b_end:
        return (a_end - a) - (b_end - b)
    return byte(stored, a) - byte(stored, b)


@helper
def goes_first(table: int, one: int, other: int) -> bool:
    """Whether the pair of record `one` merges before that of `other`."""
    records = span(table, RECORDS)
    count = i64(records, one + PUSHED) - i64(records, other + PUSHED)
    if count != 0:
        return count > 0
    pair, other_pair = i64(records, one + PAIR), i64(records, other + PAIR)
    if number(table, BY_BYTES):
        compared = compare_tokens(table, pair >> 32, other_pair >> 32)
        if compared == 0:
            compared = compare_tokens(table, pair & LOW_32, other_pair & LOW_32)
        if compared != 0:
            return compared > 0
    return pair < other_pair


@helper
def push_record(table: int, record: int) -> None:
    """Push a record onto the heap, if its pair is frequent enough."""
    records, heap = span(table, RECORDS), span(table, HEAP)
    if i64(records, record + COUNT) < number(table, LEAST):
        return
    set_i64(records, record + PUSHED, i64(records, record + COUNT))
    i = number(table, IN_HEAP)
    set_number(table, IN_HEAP, i + 1)
    while i > 0 and goes_first(table, record, i64(heap, i - 1 >> 1)):
        set_i64(heap, i, i64(heap, i - 1 >> 1))
        i = i - 1 >> 1
    set_i64(heap, i, record)


@helper
def pop_record(table: int) -> int:
    """Pop the first record from the heap."""
    heap, count = span(table, HEAP), number(table, IN_HEAP) - 1
    first, record = i64(heap, 0), i64(heap, count)
    i, child = 0, 1
    while child < count:
        if child + 1 < count and goes_first(table, i64(heap, child + 1), i64(heap, child)):
            child += 1
        if goes_first(table, record, i64(heap, child)):
            break
        set_i64(heap, i, i64(heap, child))
        i, child = child, 2 * child + 1
    set_i64(heap, i, record)
    set_number(table, IN_HEAP, count)
    return first


@helper
def most_frequent(table: int) -> int:
    """The record of the most frequent pair, which stays on the heap; -1 where none is left."""
    records = span(table, RECORDS)
    while number(table, IN_HEAP) > 0:
        record = i64(span(table, HEAP), 0)
        if i64(records, record + COUNT) == i64(records, record + PUSHED):
            return record
        push_record(table, pop_record(table))
    return -1


@Kernel
def merge_pairs(table: int, most: int) -> None:
    """Make up to `most` merges, into MERGES; fewer where a span is FULL, or no pair is left: then FULL is -1."""
    records = span(table, RECORDS)
    for _ in range(most):
        record = most_frequent(table)
        if record < 0:
            return
        pair, new = i64(records, record + PAIR), number(table, TOKENS)
        full = full_span(table, pair, i64(records, record + LENGTH))
        set_number(table, FULL, full)
        if full >= 0:
            return
        pop_record(table)
        set_i64(span(table, MERGES), new - 256, pair)
        name_token(table, pair, new)
        join_everywhere(table, record, new)
        enter_neighbours(table, new)
        set_i64(records, record + COUNT, 0)


@helper
def full_span(table: int, pair: int, length: int) -> int:
    """The span that may be too small for merging a pair that is at `length` positions; -1 for none."""
    starts, tokens = span(table, STARTS), number(table, TOKENS)
    left, right = pair >> 32, pair & LOW_32
    size = i64(starts, left + 1) - i64(starts, left) + i64(starts, right + 1) - i64(starts, right)
    if i64(starts, tokens) + size > span(table, BYTES).size:
        return BYTES
    if 4 * (number(table, IN_POSITIONS) + 2 * length) > span(table, POSITIONS).size:
        return POSITIONS
    if 8 * (number(table, IN_RECORDS) + RECORD * min(2 * length, 2 * tokens + 2)) > span(table, RECORDS).size:
        return RECORDS
    return NOTES if 8 * 2 * length > span(table, NOTES).size else -1


@Kernel
def list_records(table: int) -> None:
    """Fill LOOKUP, which is empty, from all records."""
    for record in range(0, number(table, IN_RECORDS), RECORD):
        list_record(table, record)


@helper
def name_token(table: int, pair: int, new: int) -> None:
    """Append the bytes of a new token to BYTES."""
    starts, stored = span(table, STARTS), span(table, BYTES)
    end = i64(starts, new)
    for part in (pair >> 32, pair & LOW_32):
        for k in range(i64(starts, part), i64(starts, part + 1)):
            set_byte(stored, end, byte(stored, k))
            end += 1
    set_i64(starts, new + 1, end)
    set_number(table, TOKENS, new + 1)


@helper
def join_everywhere(table: int, record: int, new: int) -> None:
    """Replace the pair by the new token everywhere, from left to right, and note its neighbours."""
    records, positions, starts = span(table, RECORDS), span(table, POSITIONS), span(table, STARTS)
    cells, owners, weights = span(table, CELLS), span(table, OWNERS), span(table, WEIGHTS)
    left, right = i64(records, record + PAIR) >> 32, i64(records, record + PAIR) & LOW_32
    left_size = i64(starts, left + 1) - i64(starts, left)
    right_size = i64(starts, right + 1) - i64(starts, right)
    first = i64(records, record + FIRST)
    set_number(table, IN_NOTES, 0)
    for k in range(first, first + i64(records, record + LENGTH)):
        at = u32(positions, k)
        middle, end = at + left_size, at + left_size + right_size
        if u32(cells, at) != left or u32(cells, middle) != right:
            continue
        set_u32(cells, middle - 1, GONE)
        set_u32(cells, middle, GONE)
        set_u32(cells, at, new)
        set_u32(cells, end - 1, new)
        weight = i64(weights, u32(owners, at))
        before, after = u32(cells, at - 1), u32(cells, end)
        if before != EDGE:
            lower(table, before, left, new, weight)
            size = i64(starts, before + 1) - i64(starts, before)
            note(table, before, LEFT, at - size, weight)
        if after != EDGE:
            lower(table, right, after, new, weight)
            note(table, after, RIGHT, at, weight)


@helper
def lower(table: int, left: int, right: int, new: int, weight: int) -> None:
    """Lower the count of a pair. Where its left token is the new one, it is still a note, of its right neighbour."""
    if left == new:
        neighbours = span(table, NEIGHBOURS)
        set_i64(neighbours, 4 * right + 2, i64(neighbours, 4 * right + 2) - weight)
        return
    record = record_of(table, left << 32 | right)
    if record >= 0:
        records = span(table, RECORDS)
        set_i64(records, record + COUNT, i64(records, record + COUNT) - weight)


@helper
def note(table: int, neighbour: int, side: int, position: int, weight: int) -> None:
    """Note a neighbour of the new token: NEIGHBOURS has (count, positions) of each token on each side."""
    neighbours, notes, count = span(table, NEIGHBOURS), span(table, NOTES), number(table, IN_NOTES)
    item = 4 * neighbour + 2 * side
    set_i64(neighbours, item, i64(neighbours, item) + weight)
    set_i64(neighbours, item + 1, i64(neighbours, item + 1) + 1)
    set_i64(notes, count, item << 32 | position)
    set_number(table, IN_NOTES, count + 1)


@helper
def enter_neighbours(table: int, new: int) -> None:
    """Make a record of each pair that was noted, with its positions in the order of the notes."""
    neighbours, notes, count = span(table, NEIGHBOURS), span(table, NOTES), number(table, IN_NOTES)
    first_record = number(table, IN_RECORDS)
    for k in range(count):
        item, position = i64(notes, k) >> 32, i64(notes, k) & LOW_32
        positions = i64(neighbours, item + 1)
        if positions > 0:  # the first note of this neighbour
            weight = i64(neighbours, item)
            pair = new << 32 | item >> 2 if item & 2 else item >> 2 << 32 | new
            first = number(table, IN_POSITIONS)
            record = -1 if weight < number(table, LEAST) else new_record(table, pair, weight, first)
            set_number(table, IN_POSITIONS, first + (positions if record >= 0 else 0))
            set_i64(neighbours, item, record)
            set_i64(neighbours, item + 1, 0)
        if i64(neighbours, item) >= 0:
            add_position(table, i64(neighbours, item), position)
    for k in range(count):
        set_i64(neighbours, i64(notes, k) >> 32, 0)
    for record in range(first_record, number(table, IN_RECORDS), RECORD):
        push_record(table, record)


LEARNING = count_pairs, merge_pairs, list_records
"""All kernels that learn merges."""
