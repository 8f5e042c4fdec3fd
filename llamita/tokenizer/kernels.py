"""The tokenizer's inner loops, compiled from Python by numba: cut text into pieces, merge them, look them up, decode.

What they compute is what `patterns.py`, `merge.py` and `bpe.py` say in plain Python, which stays the text to learn from
and the oracle that tests compare with; here stands how to do it fast. From the outside in: `encode` and `decode`
at the end are what others call, the rest is what they are made of.

All kernels work on UTF-8 bytes and on memory that `native.py` allocates. They know it by address, as `Span`s that are
listed in one table: arrays handed to helpers in a hot loop would be counted in and out at each call, ten times slower.
With LLAMITA_CHECKED_KERNELS=1 every access is checked against the end of its span. Numbers are int64 throughout, since
numba makes floats of an int64 and a uint64.
"""

import os
from collections.abc import Callable
from inspect import signature
from typing import Any, NamedTuple, cast

from numba import njit, types
from numba.extending import intrinsic
from numpy import int64

CHECKED = os.environ.get("LLAMITA_CHECKED_KERNELS") == "1"

OPTIONS: dict[str, Any] = {"error_model": "numpy"}
helper = njit(**OPTIONS, no_cpython_wrapper=True, no_cfunc_wrapper=True)  # pyright: ignore[reportCallIssue]
ENTRIES: dict[Any, int] = {}
"""The kernels that others call, and how many numbers each is given."""


def entry(function: Callable[..., Any]) -> Any:
    """A kernel that others call, kept compiled on disk where a place for it is found."""
    cached = not CHECKED  # a checked build must never be mistaken for a fast one
    try:
        kernel = njit(nogil=True, cache=cached, **OPTIONS)(function)
    except RuntimeError:  # neither the package's folder nor the person's can be written to
        kernel = njit(nogil=True, **OPTIONS)(function)
    ENTRIES[kernel] = len(signature(function).parameters)
    return kernel


# --- memory ---


class Span(NamedTuple):
    """A stretch of memory: the address of its first byte, and how many bytes it has."""

    address: int
    size: int


def _reader(kind: Any, step: int) -> Any:
    """A function (span, i) -> the number of this kind `step` · i bytes behind the beginning, aligned or not."""

    @intrinsic
    def read(_: Any, memory: Any, i: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = builder.load(_pointer(context, builder, kind, step, *arguments))
            value.align = 1
            return value if kind.bitwidth == 64 else builder.zext(value, context.get_value_type(types.int64))

        return types.int64(memory, types.int64), generate

    return _checked_reader(read, kind.bitwidth // 8, step) if CHECKED else read


def _writer(kind: Any, step: int) -> Any:
    """A function (span, i, value) that writes a number of this kind, as a `_reader` reads it."""

    @intrinsic
    def write(_: Any, memory: Any, i: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            *place, number = arguments
            number = number if kind.bitwidth == 64 else builder.trunc(number, context.get_value_type(kind))
            builder.store(number, _pointer(context, builder, kind, step, *place)).align = 1
            return context.get_dummy_value()

        return types.void(memory, types.int64, types.int64), generate

    return _checked_writer(write, kind.bitwidth // 8, step) if CHECKED else write


def _pointer(context: Any, builder: Any, kind: Any, step: int, memory: Any, i: Any) -> Any:
    """The address of an item, as LLVM has it."""
    start = builder.extract_value(memory, 0)
    address = builder.add(start, builder.mul(i, context.get_constant(types.int64, step)))
    return builder.inttoptr(address, context.get_value_type(kind).as_pointer())


def _checked_reader(read: Any, size: int, step: int) -> Any:
    @helper
    def checked(memory: Span, i: int) -> int:
        if i < 0 or i * step + size > memory.size:
            raise IndexError("a kernel reads outside its memory")
        return read(memory, i)

    return checked


def _checked_writer(write: Any, size: int, step: int) -> Any:
    @helper
    def checked(memory: Span, i: int, value: int) -> None:
        if i < 0 or i * step + size > memory.size:
            raise IndexError("a kernel writes outside its memory")
        write(memory, i, value)

    return checked


# Item i of a span, of the type in the name; `eight`: the eight bytes from byte i on as one number, the first lowest.
byte, u16 = _reader(types.uint8, 1), _reader(types.uint16, 2)
u32, i64 = _reader(types.uint32, 4), _reader(types.int64, 8)
set_u32, set_i64 = _writer(types.uint32, 4), _writer(types.int64, 8)
eight, set_eight = _reader(types.int64, 1), _writer(types.int64, 1)


def numbers(first: int, end: int) -> tuple[int, ...]:
    """Constants for kernels. Of a plain int numba would compile every helper that is given it anew."""
    return tuple(cast(int, int64(value)) for value in range(first, end))


# The table: an int64 array that begins with address and size of each span, in this order, and goes on with numbers.
KINDS, PAGES, BLOCKS, BYTE_IDS, BYTE_PAIRS, PAIRS, BYTES, STARTS, MASKS = numbers(0, 9)  # shared by all workspaces
TEXT, WORDS, LONGER, ARENA, IDS, PARTS, OFFERS, BEFORE, AFTER = numbers(9, 18)  # of one workspace
PATTERN, WHOLE, LONGEST_PIECE, CONSUMED, WORDS_LEFT, LONGER_LEFT, ARENA_USED = numbers(36, 43)
(TABLE_SIZE,) = numbers(43, 44)
(ZERO,) = numbers(0, 1)


@helper
def listed(table: int) -> Span:
    """The table itself as a span."""
    return Span(table, 8 * TABLE_SIZE)


@helper
def span(table: int, which: int) -> Span:
    """One of the spans that the table lists."""
    return Span(i64(listed(table), 2 * which), i64(listed(table), 2 * which + 1))


@helper
def number(table: int, which: int) -> int:
    """One of the numbers behind the spans."""
    return i64(listed(table), which)


@helper
def set_number(table: int, which: int, value: int) -> None:
    """Change one of the numbers behind the spans."""
    set_i64(listed(table), which, value)


# --- cutting text into pieces: the patterns as state machines over one table of character classes ---

OTHER, LETTER, NUMBER, SPACE, NEWLINE, END, BEYOND = numbers(0, 7)
"""What `KINDS` says of a byte: the class of an ASCII character, BEYOND for the first byte of others, END behind a text.

SPACE is whitespace that does not end a line. Behind the text stand sixteen bytes 0xFF, which no UTF-8 has, so that no
loop has to ask where the text ends.
"""
GPT2, CL100K, LLAMA3 = numbers(0, 3)
LETTER_BITS = 3  # above these, `BLOCKS` has which letter of a contraction a character is, in any case
D, E, L, M, R, S, T, V = range(1, 9)

APOSTROPHE, BLANK = 0x27, 0x20


class Text(NamedTuple):
    """UTF-8 text, and what tells the classes of its characters."""

    bytes: Span
    kinds: Span
    pages: Span
    blocks: Span


@helper
def width(text: Text, i: int) -> int:
    """Bytes of the character at i."""
    first = byte(text.bytes, i)
    return 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


@helper
def code_point(text: Text, i: int) -> int:
    """The character at i."""
    first = byte(text.bytes, i)
    if first < 0x80:
        return first
    second = byte(text.bytes, i + 1) & 0x3F
    if first < 0xE0:
        return (first & 0x1F) << 6 | second
    third = byte(text.bytes, i + 2) & 0x3F
    if first < 0xF0:
        return (first & 0x0F) << 12 | second << 6 | third
    return (first & 0x07) << 18 | second << 12 | third << 6 | (byte(text.bytes, i + 3) & 0x3F)


@helper
def entry_of(text: Text, i: int) -> int:
    """What the table of classes says of the character at i: its page, then its place there."""
    point = code_point(text, i)
    return byte(text.blocks, u16(text.pages, point >> 8) << 8 | (point & 0xFF))


@helper
def kind(text: Text, i: int) -> int:
    """The class of the character at i; END behind the text."""
    found = byte(text.kinds, byte(text.bytes, i))
    return entry_of(text, i) & 7 if found == BEYOND else found


@helper
def run(text: Text, i: int, wanted: int) -> int:
    """Where the run of characters of a class that begins at i ends."""
    while True:
        found = byte(text.kinds, byte(text.bytes, i))
        if found == wanted:
            i += 1
        elif found == BEYOND and entry_of(text, i) & 7 == wanted:
            i += width(text, i)
        else:
            return i


@helper
def whitespace(text: Text, i: int, pattern: int) -> int:
    r"""The end of the piece that begins with whitespace at i.

    gpt2: `\s+(?!\S)|\s+`; cl100k: `\s++$|\s*[\r\n]|\s+(?!\S)|\s`; llama3: `\s*[\r\n]+|\s+(?!\S)|\s+`. So a run goes
    up to its last line end, where the pattern knows those; else it leaves its last character to what follows.
    """
    j = last = i
    line_end = -1
    while True:
        found = kind(text, j)
        if not SPACE <= found <= NEWLINE:
            break
        last = j
        j += width(text, j)
        if found == NEWLINE:
            line_end = j
    ended = found == END
    if line_end >= 0 and (pattern == LLAMA3 or (pattern == CL100K and not ended)):
        return line_end
    return j if ended or last == i else last


@helper
def gpt2_piece(text: Text, i: int) -> int:
    r"""`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+` -> the end of the piece at i."""
    first = byte(text.bytes, i)
    if first == APOSTROPHE:
        one, two = byte(text.bytes, i + 1), byte(text.bytes, i + 2)
        if one == 0x73 or one == 0x74 or one == 0x6D or one == 0x64:  # s t m d
            return i + 2
        if (one == 0x72 and two == 0x65) or (one == 0x76 and two == 0x65) or (one == 0x6C and two == 0x6C):  # re ve ll
            return i + 3
    j = i + 1 if first == BLANK else i
    found = kind(text, j)
    if found <= NUMBER:  # or OTHER, or LETTER
        return run(text, j, found)
    return whitespace(text, i, GPT2)


@helper
def contraction(text: Text, i: int) -> int:
    """`'(?i:[sdmt]|ll|ve|re)` at i -> its end, or -1."""
    if byte(text.kinds, byte(text.bytes, i + 1)) == END:
        return -1
    one, j = entry_of(text, i + 1) >> LETTER_BITS, i + 1 + width(text, i + 1)
    if one in (S, D, M, T):
        return j
    if byte(text.kinds, byte(text.bytes, j)) == END:
        return -1
    two = entry_of(text, j) >> LETTER_BITS
    found = (one == L and two == L) or (one == V and two == E) or (one == R and two == E)
    return j + width(text, j) if found else -1


@helper
def newer_piece(text: Text, i: int, pattern: int) -> int:
    r"""cl100k's and llama3's pieces, which differ in whitespace only -> the end of the piece at i.

    A contraction in any case; `[^\r\n\p{L}\p{N}]?\p{L}+`; `\p{N}{1,3}`; ` ?[^\s\p{L}\p{N}]+[\r\n]*`; whitespace.
    """
    first = byte(text.bytes, i)
    if first == APOSTROPHE:
        end = contraction(text, i)
        if end >= 0:
            return end
    found = kind(text, i)
    if found == LETTER:
        return run(text, i, LETTER)
    if found == NUMBER:
        j = i + width(text, i)
        for _ in range(2):
            if kind(text, j) == NUMBER:
                j += width(text, j)
        return j
    if found == NEWLINE:
        return whitespace(text, i, pattern)
    j = i + width(text, i)
    after = kind(text, j)
    if after == LETTER:
        return run(text, j, LETTER)
    if found == OTHER or (first == BLANK and after == OTHER):
        return run(text, run(text, j, OTHER), NEWLINE)
    return whitespace(text, i, pattern)


@helper
def piece_end(text: Text, i: int, pattern: int) -> int:
    """Where the piece that begins at i ends."""
    return gpt2_piece(text, i) if pattern == GPT2 else newer_piece(text, i, pattern)


@helper
def settled(text: Text, size: int) -> int:
    """The largest end of a piece that no text after the first `size` bytes can change; see `Scanner.split_stable`.

    Behind such a piece stand two characters at least, and something besides the whitespace at the end of the text.
    """
    i, characters, blank = size, 0, True
    while i > 0 and (characters < 2 or blank):
        j = i - 1
        while byte(text.bytes, j) & 0xC0 == 0x80:
            j -= 1
        found = kind(text, j)
        blank = blank and SPACE <= found <= NEWLINE
        if characters >= 2 and not blank:
            break
        i, characters = j, characters + 1
    return i


# --- merging: the lowest rank first, again and again (Sennrich et al., 2016) ---

LOW_32 = 0xFFFFFFFF
NEVER = 1 << 62
SHORT = 64
"""Tokens up to which a look at every pair for every merge is faster than a heap."""


@helper
def scrambled(x: int) -> int:
    """A number whose middle bits depend on all bits of x: multiplicative hashing (Knuth, 1973), twice."""
    x *= -7046029254386353131  # 2^64 / golden ratio, as a signed number
    x ^= x >> 29
    return x * -4658895280553007687


@helper
def offer(table: int, left: int, right: int) -> int:
    """What a pair of neighbours becomes: rank << 32 | id; NEVER if it does not merge.

    Pairs of two single bytes, most of those asked for, have a square of their own. Others are found in a hash table
    with linear probing: (pair, offer) by (pair, offer), an absent pair is -1.
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
    """Merge the first `count` tokens of PARTS in their place -> how many are left. As `merge_short` of `merge.py`."""
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
    """Take the least value, item 0, out of a heap of `count` -> its new size."""
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
    """Push the pair of the token at place `at` and the one after it as rank << 32 | place, if it merges."""
    parts, after = span(table, PARTS), span(table, AFTER)
    if u32(after, at) < count:
        found = offer(table, u32(parts, at), u32(parts, u32(after, at)))
        if found != NEVER:
            return push(heap, size, found & ~LOW_32 | at)
    return size


@helper
def merge_many(table: int, count: int) -> int:
    """`merge_few` in n log n: places in a linked list, proposals in a heap. As `merge_long` of `merge.py`."""
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
            continue  # one of the two has merged otherwise since; what came of that was proposed then
        set_u32(parts, at, found & LOW_32)
        set_u32(parts, right, LOW_32)  # gone
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
    return merge_few(table, size) if size <= SHORT else merge_many(table, size)


# --- remembering pieces, so that a word is merged once ---
#
# WORDS holds pieces of up to 15 bytes with up to 4 tokens, 32 bytes each: the bytes and their number as a key that
# says all (two pieces never look alike), then the ids, with their number in the highest bits of the first. A piece is
# read, looked up and written with a few whole words, without a loop. LONGER has (hash, place) of what does
# not fit there; at the place in ARENA stand the bytes, filled up to eights, then the ids.
# Both begin with the pieces that are tokens themselves, and are put back to that when they are full.

WORD_BYTES, WORD_IDS = 15, 4
LONGEST = 128
"""Bytes of the longest piece that is remembered, unless it is a token."""
COUNT_BIT = 28  # of the first id of a word; ids are below 2^28
MOST_ARENA = LONGEST + 8 + 4 * LONGEST + 8
"""Bytes of ARENA that a piece takes at most."""


@helper
def word_slot(words: Span, low: int, high: int) -> int:
    """The place of a key in WORDS, in bytes: where it stands, or where it would."""
    mask = (words.size >> 5) - 1
    slot = scrambled(low ^ high * -7723592293110705685) >> 32 & mask
    while True:
        found = eight(words, slot << 5 | 8)
        if found == 0 or (found == high and eight(words, slot << 5) == low):
            return slot << 5
        slot = slot + 1 & mask


@helper
def remember_word(table: int, low: int, high: int, count: int) -> None:
    """Enter the first `count` ids of PARTS for a key that is not there."""
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
    """Bytes 8 · eighth to 8 · eighth + 7 of the piece of `size` bytes at i as a number, zeros behind its end."""
    left = size - 8 * eighth
    found = eight(text, i + 8 * eighth)
    return found if left >= 8 else found & (1 << 8 * left) - 1


@helper
def hash_of(text: Span, i: int, size: int) -> int:
    """A hash of the piece of `size` bytes at i, never 0, which marks an empty place."""
    h = size
    for eighth in range(size + 7 >> 3):
        h = scrambled(h ^ word_at(text, i, size, eighth))
        h ^= h >> 32
    return h | 1


@helper
def is_there(table: int, place: int, i: int, size: int) -> bool:
    """Whether the bytes at a place of ARENA are those of the piece at i."""
    text, arena = span(table, TEXT), span(table, ARENA)
    eighth, eighths = 0, size + 7 >> 3
    while eighth < eighths and i64(arena, place + eighth) == word_at(text, i, size, eighth):
        eighth += 1
    return eighth == eighths


@helper
def longer_slot(table: int, hashed: int, i: int, size: int) -> int:
    """The place of a piece in LONGER: where it stands, or where it would."""
    longer = span(table, LONGER)
    mask = (longer.size >> 4) - 1
    slot = hashed >> 32 & mask
    while True:
        found = i64(longer, 2 * slot)
        if found == 0:
            return slot
        if found == hashed:
            about = i64(longer, 2 * slot + 1)  # place << 32 | ids << 16 | bytes
            if about & 0xFFFF == size and is_there(table, about >> 32, i, size):
                return slot
        slot = slot + 1 & mask


@helper
def remember_longer(table: int, hashed: int, i: int, size: int, count: int) -> None:
    """Enter the first `count` ids of PARTS for the piece of `size` bytes at i, which is not there."""
    longer, arena, parts, text = span(table, LONGER), span(table, ARENA), span(table, PARTS), span(table, TEXT)
    place, eighths = number(table, ARENA_USED), size + 7 >> 3
    needed = eighths + (count + 1 >> 1)
    if number(table, LONGER_LEFT) == 0 or 8 * (place + needed) > arena.size:
        return
    slot = longer_slot(table, hashed, i, size)
    set_i64(longer, 2 * slot, hashed)
    set_i64(longer, 2 * slot + 1, place << 32 | count << 16 | size)
    for eighth in range(eighths):
        set_i64(arena, place + eighth, word_at(text, i, size, eighth))
    for k in range(count):
        set_u32(arena, 2 * (place + eighths) + k, u32(parts, k))
    set_number(table, ARENA_USED, place + needed)
    set_number(table, LONGER_LEFT, number(table, LONGER_LEFT) - 1)


@helper
def take(ids: Span, produced: int, parts: Span, first: int, count: int) -> int:
    """Copy `count` ids -> how many there are now."""
    for k in range(count):
        set_u32(ids, produced + k, u32(parts, first + k))
    return produced + count


@helper
def longer_ids(table: int, i: int, size: int, produced: int) -> int:
    """Write the ids of a piece that WORDS does not have -> how many ids there are now."""
    ids, parts = span(table, IDS), span(table, PARTS)
    if size > number(table, LONGEST_PIECE):
        return take(ids, produced, parts, 0, merge_piece(table, i, size))
    hashed = hash_of(span(table, TEXT), i, size)
    longer = span(table, LONGER)
    slot = longer_slot(table, hashed, i, size)
    if i64(longer, 2 * slot) != 0:
        about = i64(longer, 2 * slot + 1)
        first = 2 * ((about >> 32) + (size + 7 >> 3))
        return take(ids, produced, span(table, ARENA), first, about >> 16 & 0xFFFF)
    count = merge_piece(table, i, size)
    if size <= LONGEST:
        remember_longer(table, hashed, i, size, count)
    return take(ids, produced, parts, 0, count)


@helper
def new_word_ids(table: int, i: int, size: int, low: int, high: int, produced: int) -> int:
    """Write the ids of a piece of up to 15 bytes that WORDS does not have -> how many ids there are now."""
    if size > 4:  # else it has no more than 4 tokens, and would be there or is to be entered
        hashed = hash_of(span(table, TEXT), i, size)
        if i64(span(table, LONGER), 2 * longer_slot(table, hashed, i, size)) != 0:
            return longer_ids(table, i, size, produced)
    count = merge_piece(table, i, size)
    if count <= WORD_IDS:
        remember_word(table, low, high, count)
    else:
        remember_longer(table, hash_of(span(table, TEXT), i, size), i, size, count)
    return take(span(table, IDS), produced, span(table, PARTS), 0, count)


# --- what others call ---


@entry
def encode(table: int, size: int, final: int) -> int:
    """Encode the first `size` bytes of TEXT into IDS -> how many ids.

    If not `final`, more text follows, and what that may change is left over. CONSUMED says up to where text was read.
    """
    text = Text(span(table, TEXT), span(table, KINDS), span(table, PAGES), span(table, BLOCKS))
    words, ids, masks, pattern = span(table, WORDS), span(table, IDS), span(table, MASKS), number(table, PATTERN)
    limit = size if final else settled(text, size)
    i = produced = ZERO
    while i < limit:
        j = piece_end(text, i, pattern)
        if j > limit:
            break
        length = j - i
        if length <= WORD_BYTES:
            low = eight(text.bytes, i) & i64(masks, 2 * length)
            high = eight(text.bytes, i + 8) & i64(masks, 2 * length + 1) | length << 56
            at = word_slot(words, low, high)
            if eight(words, at + 8) != 0:
                first = eight(words, at + 16)
                set_eight(ids, 4 * produced, first & ~(0xF << COUNT_BIT))
                set_eight(ids, 4 * produced + 8, eight(words, at + 24))
                produced += first >> COUNT_BIT & 0xF
            else:
                produced = new_word_ids(table, i, length, low, high, produced)
        else:
            produced = longer_ids(table, i, length, produced)
        i = j
    set_number(table, CONSUMED, i)
    return produced


@entry
def enter_tokens(table: int, wanted: int, count: int) -> None:
    """Begin WORDS and LONGER with the tokens of BYTES whose flag (uint32) is set, as if they had come as pieces.

    Where WHOLE is set, a piece that is a token is never cut; else it is merged like all others.
    """
    text, starts, stored = span(table, TEXT), span(table, STARTS), span(table, BYTES)
    flags, parts, masks = Span(wanted, 4 * count), span(table, PARTS), span(table, MASKS)
    whole = number(table, WHOLE)
    for token in range(count):
        first, size = i64(starts, token), i64(starts, token + 1) - i64(starts, token)
        if u32(flags, token) == 0 or size == 0:
            continue
        for k in range(size + 15 >> 3):
            set_eight(text, 8 * k, eight(stored, first + 8 * k))
        if whole:
            set_u32(parts, 0, token)
        pieces = 1 if whole else merge_piece(table, ZERO, size)
        if size <= WORD_BYTES and pieces <= WORD_IDS:
            low = eight(text, 0) & i64(masks, 2 * size)
            remember_word(table, low, eight(text, 8) & i64(masks, 2 * size + 1) | size << 56, pieces)
        else:
            remember_longer(table, hash_of(text, ZERO, size), ZERO, size, pieces)


@entry
def enter_pairs(table: int, offers: int, count: int) -> None:
    """Fill PAIRS and BYTE_PAIRS from `count` items (left << 32 | right, rank << 32 | id); the first of equals wins."""
    pairs, square, given = span(table, PAIRS), span(table, BYTE_PAIRS), Span(offers, 16 * count)
    mask = (pairs.size >> 4) - 1
    for k in range(count):
        pair, value = i64(given, 2 * k), i64(given, 2 * k + 1)
        left, right = pair >> 32, pair & LOW_32
        if left < 256 and right < 256:
            if i64(square, left << 8 | right) == NEVER:
                set_i64(square, left << 8 | right, value)
            continue
        slot = scrambled(pair) >> 32 & mask
        while i64(pairs, 2 * slot) != -1 and i64(pairs, 2 * slot) != pair:
            slot = slot + 1 & mask
        if i64(pairs, 2 * slot) == -1:
            set_i64(pairs, 2 * slot, pair)
            set_i64(pairs, 2 * slot + 1, value)


@entry
def decoded_size(table: int, ids: int, count: int, vocab_size: int) -> int:
    """Bytes of the text of `count` uint32 ids; -1 - place for the first one that no token has."""
    given, starts = Span(ids, 4 * count), span(table, STARTS)
    size = 0
    for k in range(count):
        token = u32(given, k)
        if token >= vocab_size:
            return -1 - k
        length = i64(starts, token + 1) - i64(starts, token)
        if length == 0:
            return -1 - k
        size += length
    return size


@entry
def decode(table: int, ids: int, count: int, out: int, room: int) -> None:
    """Write the bytes of `count` ids to `out`, sixteen at a time: so it needs room for 16 more than there are."""
    given, starts, stored, text = Span(ids, 4 * count), span(table, STARTS), span(table, BYTES), Span(out, room)
    at = 0
    for k in range(count):
        token = u32(given, k)
        first, end = i64(starts, token), i64(starts, token + 1)
        copied = 0
        while True:
            set_eight(text, at + copied, eight(stored, first + copied))
            set_eight(text, at + copied + 8, eight(stored, first + copied + 8))
            copied += 16
            if copied >= end - first:
                break
        at += end - first
