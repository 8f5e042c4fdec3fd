"""Merge the tokens of a piece: the pair of the lowest rank first, again and again (Sennrich et al., 2016)."""

from llamita.jit.language import helper
from llamita.jit.spans import Span, byte, i64, set_i64, set_u32, u32
from llamita.tokenizer.kernels.memory import AFTER, BEFORE, BYTE_IDS, BYTE_PAIRS, OFFERS, PAIRS, PARTS, TEXT, span

LOW_32 = 0xFFFFFFFF
NEVER = 1 << 62
FEW = 64
"""Tokens up to which scanning all pairs for every merge is faster than a heap."""


@helper
def scrambled(x: int) -> int:
    """A number whose middle bits depend on all bits of x: multiplicative hashing (Knuth, 1973), twice."""
    x *= -7046029254386353131  # 2^64 / golden ratio, as a signed number
    x ^= x >> 29
    return x * -4658895280553007687


@helper
def offer(table: int, left: int, right: int) -> int:
    """The merge of a pair of neighbours: rank << 32 | id of the merged token; NEVER if there is none.

    Pairs of single bytes, the most frequent, have a 256 × 256 table. Others are in a hash table with linear probing,
    whose items are (pair, offer); an empty slot is -1.
    """
    if left < 256 and right < 256:
        return i64(span(table, BYTE_PAIRS), left << 8 | right)
    pairs = span(table, PAIRS)
    pair = left << 32 | right
    mask = (pairs.size >> 4) - 1
    slot = scrambled(pair) >> 32 & mask
    while True:
        found = i64(pairs, 2 * slot)
        if found == pair:
            return i64(pairs, 2 * slot + 1)
        if found == -1:
            return NEVER
        slot = slot + 1 & mask


@helper
def merge_few(table: int, count: int) -> int:
    """Merge the first `count` tokens of PARTS in place -> how many are left. As `merge_short` of `merge.py`."""
    parts, offers = span(table, PARTS), span(table, OFFERS)
    for k in range(count - 1):
        set_i64(offers, k, offer(table, u32(parts, k), u32(parts, k + 1)))
    while True:
        best, at = NEVER, -1
        for k in range(count - 1):
            if i64(offers, k) < best:
                best, at = i64(offers, k), k
        if at < 0:
            return count
        count -= 1
        set_u32(parts, at, best & LOW_32)
        for k in range(at + 1, count):
            set_u32(parts, k, u32(parts, k + 1))
            set_i64(offers, k - 1, i64(offers, k))
        if at > 0:
            set_i64(offers, at - 1, offer(table, u32(parts, at - 1), u32(parts, at)))
        if at < count - 1:
            set_i64(offers, at, offer(table, u32(parts, at), u32(parts, at + 1)))


@helper
def push(heap: Span, count: int, value: int) -> int:
    """Add a value to a binary heap of `count` -> its new size (Williams, 1964)."""
    i = count
    while i > 0 and i64(heap, i - 1 >> 1) > value:
        set_i64(heap, i, i64(heap, i - 1 >> 1))
        i = i - 1 >> 1
    set_i64(heap, i, value)
    return count + 1


@helper
def pop(heap: Span, count: int) -> int:
    """Remove the least value, item 0, from a heap of `count` -> its new size."""
    count -= 1
    value = i64(heap, count)
    i, child = 0, 1
    while child < count:
        if child + 1 < count and i64(heap, child + 1) < i64(heap, child):
            child += 1
        if i64(heap, child) >= value:
            break
        set_i64(heap, i, i64(heap, child))
        i, child = child, 2 * child + 1
    set_i64(heap, i, value)
    return count


@helper
def propose(table: int, heap: Span, size: int, at: int, count: int) -> int:
    """Push the pair of the tokens at `at` and after it as rank << 32 | `at`, if it merges -> the new heap size."""
    parts, after = span(table, PARTS), span(table, AFTER)
    if u32(after, at) < count:
        found = offer(table, u32(parts, at), u32(parts, u32(after, at)))
        if found != NEVER:
            return push(heap, size, found & ~LOW_32 | at)
    return size


@helper
def merge_many(table: int, count: int) -> int:
    """`merge_few` in n log n: tokens in a linked list, merges in a heap. As `merge_long` of `merge.py`."""
    parts, heap = span(table, PARTS), span(table, OFFERS)
    before, after = span(table, BEFORE), span(table, AFTER)
    for k in range(count):
        set_u32(before, k, k - 1)
        set_u32(after, k, k + 1)
    size = 0
    for k in range(count):
        size = propose(table, heap, size, k, count)
    while size > 0:
        proposed = i64(heap, 0)
        size = pop(heap, size)
        at = proposed & LOW_32
        right = u32(after, at)
        if u32(parts, at) == LOW_32 or right >= count:
            continue
        found = offer(table, u32(parts, at), u32(parts, right))
        if found == NEVER or found >> 32 != proposed >> 32:
            continue  # stale: one of the two has merged with another token, and its new pairs were pushed then
        set_u32(parts, at, found & LOW_32)
        set_u32(parts, right, LOW_32)  # merged into its left neighbour
        set_u32(after, at, u32(after, right))
        if u32(after, right) < count:
            set_u32(before, u32(after, right), at)
        if at > 0:
            size = propose(table, heap, size, u32(before, at), count)
        size = propose(table, heap, size, at, count)
    left = k = 0
    while k < count:
        set_u32(parts, left, u32(parts, k))
        left, k = left + 1, u32(after, k)
    return left


@helper
def merge_piece(table: int, i: int, size: int) -> int:
    """The tokens of the `size` bytes of text at i, in PARTS -> how many."""
    text, parts, byte_ids = span(table, TEXT), span(table, PARTS), span(table, BYTE_IDS)
    for k in range(size):
        set_u32(parts, k, u32(byte_ids, byte(text, i + k)))
    return merge_few(table, size) if size <= FEW else merge_many(table, size)
