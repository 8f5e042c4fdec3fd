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
ENTRIES: dict[str, dict[Any, int]] = {"encodes": {}, "learns from": {}}
"""The kernels that others call, by what they do with text, and how many numbers each is given."""


def entry(group: str) -> Callable[[Callable[..., Any]], Any]:
    """A kernel that others call, kept compiled on disk where a place for it is found."""

    def compiled(function: Callable[..., Any]) -> Any:
        cached = not CHECKED  # a checked build must never be mistaken for a fast one
        try:
            kernel = njit(nogil=True, cache=cached, **OPTIONS)(function)
        except RuntimeError:  # neither the package's folder nor the person's can be written to
            kernel = njit(nogil=True, **OPTIONS)(function)
        ENTRIES[group][kernel] = len(signature(function).parameters)
        return kernel

    return compiled


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
set_byte = _writer(types.uint8, 1)
set_u32, set_i64 = _writer(types.uint32, 4), _writer(types.int64, 8)
eight, set_eight = _reader(types.int64, 1), _writer(types.int64, 1)


def numbers(first: int, end: int) -> tuple[int, ...]:
    """Constants for kernels. Of a plain int numba would compile every helper that is given it anew."""
    return tuple(cast(int, int64(value)) for value in range(first, end))


# The table: an int64 array that begins with address and size of each span, in this order, and goes on with numbers.
KINDS, PAGES, BLOCKS, BYTE_IDS, BYTE_PAIRS, PAIRS, BYTES, STARTS, MASKS = numbers(0, 9)  # shared by all workspaces
TEXT, WORDS, LONGER, ARENA, IDS, PARTS, OFFERS, BEFORE, AFTER = numbers(9, 18)  # of one workspace
(FREQUENT,) = numbers(18, 19)  # of one, too
CELLS, OWNERS, WEIGHTS, PLACES, RECORDS, LOOKUP, HEAP, NOTES, NEIGHBOURS, MERGES = numbers(19, 29)  # of training
PATTERN, WHOLE, LONGEST_PIECE, CONSUMED, WORDS_LEFT, LONGER_LEFT, ARENA_USED = numbers(58, 65)
PIECES, PIECE_BYTES, BY_BYTES, LEAST, TOKENS, IN_PLACES, IN_RECORDS, IN_HEAP, IN_NOTES, SHORT = numbers(65, 75)
(TABLE_SIZE,) = numbers(75, 76)
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
# read, looked up and written with a few whole words, without a loop. FREQUENT has those that came last: nine of ten
# that come are among them, and no core waits for a cache that it shares with others.
# LONGER has (hash, place << 32 | ids) of what does not fit into WORDS; at the place in ARENA stand the number of bytes,
# the bytes, filled up to eights, and the ids.
# All begin with the pieces that are tokens themselves, and are put back to that when they are full.

WORD_BYTES, WORD_IDS = 15, 4
LONGEST = 128
"""Bytes of the longest piece that is remembered, unless it is a token."""
COUNT_BIT = 28  # of the first id of a word; ids are below 2^28
(FREQUENT_WORDS,) = numbers(4096, 4097)
"""Words that a table small enough for a core's own cache has room for, each at one place only; WORDS has them, too."""
MOST_ARENA = 8 + LONGEST + 4 * LONGEST
"""Bytes of ARENA that a piece takes at most."""


@helper
def word_key(text: Span, i: int, size: int, masks: Span) -> tuple[int, int]:
    """The key of the piece of `size` bytes, up to 15, at i: its first eight bytes; the others, and how many in all."""
    return eight(text, i) & i64(masks, 2 * size), eight(text, i + 8) & i64(masks, 2 * size + 1) | size << 56


@helper
def word_hash(low: int, high: int) -> int:
    """A hash of a key."""
    return scrambled(low ^ high * -7723592293110705685) >> 32


@helper
def word_slot(words: Span, low: int, high: int) -> int:
    """The place of a key in WORDS, in bytes: where it stands, or where it would."""
    mask = (words.size >> 5) - 1
    slot = word_hash(low, high) & mask
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
    eighth, eighths = 0, size + 7 >> 3 if i64(arena, place) == size else -1
    while eighth < eighths and i64(arena, place + 1 + eighth) == word_at(text, i, size, eighth):
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
        if found == hashed and is_there(table, i64(longer, 2 * slot + 1) >> 32, i, size):
            return slot
        slot = slot + 1 & mask


@helper
def keep_piece(table: int, place: int, i: int, size: int) -> int:
    """Write the piece at i to a place of ARENA: its size, then its bytes, filled up to eights -> the place behind."""
    text, arena = span(table, TEXT), span(table, ARENA)
    eighths = size + 7 >> 3
    set_i64(arena, place, size)
    for eighth in range(eighths):
        set_i64(arena, place + 1 + eighth, word_at(text, i, size, eighth))
    return place + 1 + eighths


@helper
def remember_longer(table: int, hashed: int, i: int, size: int, count: int) -> None:
    """Enter the first `count` ids of PARTS for the piece of `size` bytes at i, which is not there."""
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
        first = 2 * ((about >> 32) + 1 + (size + 7 >> 3))
        return take(ids, produced, span(table, ARENA), first, about & LOW_32)
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


@entry("encodes")
def decoded_size(table: int, ids: int, count: int) -> int:
    """Bytes of the text of `count` uint32 ids below vocab_size; -1 - place for the first one that no token has."""
    given, starts = Span(ids, 4 * count), span(table, STARTS)
    size = 0
    for k in range(count):
        token = u32(given, k)
        length = i64(starts, token + 1) - i64(starts, token)
        if length == 0:
            return -1 - k
        size += length
    return size


@entry("encodes")
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


@entry("encodes")
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
            low, high = word_key(text, ZERO, size, masks)
            remember_word(table, low, high, pieces)
        else:
            remember_longer(table, hash_of(text, ZERO, size), ZERO, size, pieces)


@entry("encodes")
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


@entry("encodes")
def encode(table: int, size: int, final: int) -> int:
    """Encode the first `size` bytes of TEXT into IDS -> how many ids.

    If not `final`, more text follows, and what that may change is left over. CONSUMED says up to where text was read.
    """
    text = Text(span(table, TEXT), span(table, KINDS), span(table, PAGES), span(table, BLOCKS))
    words, frequent, ids = span(table, WORDS), span(table, FREQUENT), span(table, IDS)
    masks, pattern = span(table, MASKS), number(table, PATTERN)
    limit = size if final else settled(text, size)
    i = produced = ZERO
    while i < limit:
        j = piece_end(text, i, pattern)
        if j > limit:
            break
        length = j - i
        if length <= WORD_BYTES:
            low, high = word_key(text.bytes, i, length, masks)
            at = (word_hash(low, high) & FREQUENT_WORDS - 1) << 5
            if eight(frequent, at) != low or eight(frequent, at + 8) != high:
                slot = word_slot(words, low, high)
                if eight(words, slot + 8) == 0:
                    produced = new_word_ids(table, i, length, low, high, produced)
                    i = j
                    continue
                for k in range(0, 32, 8):
                    set_eight(frequent, at + k, eight(words, slot + k))
            first = eight(frequent, at + 16)
            set_eight(ids, 4 * produced, first & ~(0xF << COUNT_BIT))
            set_eight(ids, 4 * produced + 8, eight(frequent, at + 24))
            produced += first >> COUNT_BIT & 0xF
        else:
            produced = longer_ids(table, i, length, produced)
        i = j
    set_number(table, CONSUMED, i)
    return produced


# --- training: the most frequent pair first, again and again ---
#
# Pieces are counted in the same two hash tables. Then all different ones are laid out one after another, a cell a byte,
# EDGE between them. A token's id stands in its first and its last cell, so that its neighbours are found from either
# side; the cells between are GONE. Every pair has a record with its count and the places where it may stand, in order:
# made at once when the younger of its two tokens is, since later merges only take away from it. So a place is
# looked at again when the pair is merged, and a pair of the heap when it comes first: only counts are always true.

EDGE, GONE = 0xFFFFFFFF, 0xFFFFFFFE
PAIR, COUNT, PUSHED, FIRST, LENGTH, RECORD = 0, 1, 2, 3, 4, 5  # of a record; PUSHED: COUNT when the heap last saw it
BEFORE_IT, BEHIND_IT = 0, 1  # on which side of the new token a neighbour stands


@entry("learns from")
def count_pieces(table: int, size: int, final: int) -> int:
    """Count the pieces of the first `size` bytes of TEXT, up to CONSUMED -> whether that was all that is settled.

    Else there is no room for the next piece.
    """
    text = Text(span(table, TEXT), span(table, KINDS), span(table, PAGES), span(table, BLOCKS))
    masks, pattern = span(table, MASKS), number(table, PATTERN)
    limit = size if final else settled(text, size)
    i, fits = ZERO, True
    while i < limit:
        j = piece_end(text, i, pattern)
        fits = has_room(table, j - i)
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
def has_room(table: int, size: int) -> bool:
    """Whether another piece could be counted, even if it is new."""
    place = 8 * (number(table, ARENA_USED) + 2 + (size + 7 >> 3))
    return number(table, WORDS_LEFT) > 0 and number(table, LONGER_LEFT) > 0 and place <= span(table, ARENA).size


@helper
def new_piece(table: int, size: int) -> None:
    """Another piece is there to be laid out."""
    set_number(table, PIECES, number(table, PIECES) + 1)
    set_number(table, PIECE_BYTES, number(table, PIECE_BYTES) + size)


@helper
def count_word(table: int, low: int, high: int, count: int) -> None:
    """Count the piece of up to 15 bytes with this key."""
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
    """Count the piece of more than 15 bytes at i: in ARENA its count stands behind its bytes."""
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


@entry("learns from")
def add_pieces(table: int, other: int) -> int:
    """Count what another table has counted, and count it there no more -> whether there was room for all of it."""
    words, longer, arena = span(other, WORDS), span(other, LONGER), span(other, ARENA)
    for slot in range(0, words.size, 32):
        low, high, count = eight(words, slot), eight(words, slot + 8), eight(words, slot + 16)
        if count > 0:
            if not has_room(table, ZERO):
                return 0
            count_word(table, low, high, count)
            set_eight(words, slot + 16, 0)
    for slot in range(0, longer.size, 16):
        if eight(longer, slot) != 0:
            place = eight(longer, slot + 8) >> 32
            size = i64(arena, place)
            counted = place + 1 + (size + 7 >> 3)
            if not has_room(table, size):
                return 0
            for eighth in range(size + 7 >> 3):
                set_i64(span(table, TEXT), eighth, i64(arena, place + 1 + eighth))
            count_longer(table, ZERO, size, i64(arena, counted))
            set_i64(arena, counted, 0)
    return 1


@entry("learns from")
def move_pieces(table: int, words: int, words_size: int, longer: int, longer_size: int) -> None:
    """Fill WORDS and LONGER, which are empty, from smaller ones; ARENA has grown in its place, and is the same."""
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


@entry("learns from")
def lay_out(table: int) -> None:
    """Fill CELLS, OWNERS and WEIGHTS from the pieces that were counted."""
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
    """Lay out a piece behind the edge at `at` -> the edge behind it."""
    cells, owners = span(table, CELLS), span(table, OWNERS)
    set_i64(span(table, WEIGHTS), piece, count)
    for k in range(size):
        set_u32(cells, at + 1 + k, byte(source, first + k))
        set_u32(owners, at + 1 + k, piece)
    set_u32(cells, at + 1 + size, EDGE)
    return at + 1 + size


@helper
def record_of(table: int, pair: int) -> int:
    """The record of a pair, as a place in RECORDS; -1 if it has none."""
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
    """Let a record be found by its pair."""
    lookup, pair = span(table, LOOKUP), i64(span(table, RECORDS), record + PAIR)
    mask = (lookup.size >> 4) - 1
    slot = scrambled(pair) >> 32 & mask
    while i64(lookup, 2 * slot) != -1:
        slot = slot + 1 & mask
    set_i64(lookup, 2 * slot, pair)
    set_i64(lookup, 2 * slot + 1, record)


@helper
def new_record(table: int, pair: int, count: int, first: int) -> int:
    """A record without places yet -> its place in RECORDS."""
    records, record = span(table, RECORDS), number(table, IN_RECORDS)
    set_i64(records, record + PAIR, pair)
    set_i64(records, record + COUNT, count)
    set_i64(records, record + FIRST, first)
    set_i64(records, record + LENGTH, 0)
    set_number(table, IN_RECORDS, record + RECORD)
    list_record(table, record)
    return record


@helper
def add_place(table: int, record: int, place: int) -> None:
    """Another place where the pair stands."""
    records = span(table, RECORDS)
    length = i64(records, record + LENGTH)
    set_u32(span(table, PLACES), i64(records, record + FIRST) + length, place)
    set_i64(records, record + LENGTH, length + 1)


@entry("learns from")
def count_pairs(table: int, cells_count: int) -> None:
    """Make the records of all pairs of bytes, and the heap: once to count, once to note the places."""
    cells, owners, weights = span(table, CELLS), span(table, OWNERS), span(table, WEIGHTS)
    records = span(table, RECORDS)
    for again in range(2):
        for at in range(1, cells_count - 1):
            left, right = u32(cells, at), u32(cells, at + 1)
            if left == EDGE or right == EDGE:
                continue
            record = record_of(table, left << 32 | right)
            if again:
                add_place(table, record, at)
                continue
            if record < 0:
                record = new_record(table, left << 32 | right, 0, 0)
            set_i64(records, record + COUNT, i64(records, record + COUNT) + i64(weights, u32(owners, at)))
            set_i64(records, record + FIRST, i64(records, record + FIRST) + 1)
        if again == 0:  # so far FIRST is how many places there are
            first = 0
            for record in range(0, number(table, IN_RECORDS), RECORD):
                length = i64(records, record + FIRST)
                set_i64(records, record + FIRST, first)
                first += length
            set_number(table, IN_PLACES, first)
    for record in range(0, number(table, IN_RECORDS), RECORD):
        push_record(table, record)


@helper
def compare_tokens(table: int, one: int, other: int) -> int:
    """Above 0 where the bytes of token `one` are greater than those of `other`, below where less, 0 where the same."""
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
    """Whether the pair of record `one` is to be merged before that of `other`."""
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
    """Put a record into the heap, if it is frequent enough."""
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
    """Take the first record out of the heap."""
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
    """The first record of the heap whose count is still what it was -> it stays there; -1 where none is left."""
    records = span(table, RECORDS)
    while number(table, IN_HEAP) > 0:
        record = i64(span(table, HEAP), 0)
        if i64(records, record + COUNT) == i64(records, record + PUSHED):
            return record
        push_record(table, pop_record(table))
    return -1


@entry("learns from")
def merge_pairs(table: int, most: int) -> None:
    """Make up to `most` merges, into MERGES; fewer where a span is SHORT, or no pair is left: then SHORT is -1."""
    records = span(table, RECORDS)
    for _ in range(most):
        record = most_frequent(table)
        if record < 0:
            return
        pair, new = i64(records, record + PAIR), number(table, TOKENS)
        short = short_of_room(table, pair, i64(records, record + LENGTH))
        set_number(table, SHORT, short)
        if short >= 0:
            return
        pop_record(table)
        set_i64(span(table, MERGES), new - 256, pair)
        name_token(table, pair, new)
        join_everywhere(table, record, new)
        enter_neighbours(table, new)
        set_i64(records, record + COUNT, 0)


@helper
def short_of_room(table: int, pair: int, length: int) -> int:
    """The span that may be too small for what comes of merging a pair that stands at `length` places; -1 for none."""
    starts, tokens = span(table, STARTS), number(table, TOKENS)
    left, right = pair >> 32, pair & LOW_32
    size = i64(starts, left + 1) - i64(starts, left) + i64(starts, right + 1) - i64(starts, right)
    if i64(starts, tokens) + size > span(table, BYTES).size:
        return BYTES
    if 4 * (number(table, IN_PLACES) + 2 * length) > span(table, PLACES).size:
        return PLACES
    if 8 * (number(table, IN_RECORDS) + RECORD * min(2 * length, 2 * tokens + 2)) > span(table, RECORDS).size:
        return RECORDS
    return NOTES if 8 * 2 * length > span(table, NOTES).size else -1


@entry("learns from")
def list_records(table: int) -> None:
    """Fill LOOKUP, which is empty, from all records."""
    for record in range(0, number(table, IN_RECORDS), RECORD):
        list_record(table, record)


@helper
def name_token(table: int, pair: int, new: int) -> None:
    """Write the bytes of a new token behind all others."""
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
    """Put the new token where its pair stands, from left to right, and note its neighbours."""
    records, places, starts = span(table, RECORDS), span(table, PLACES), span(table, STARTS)
    cells, owners, weights = span(table, CELLS), span(table, OWNERS), span(table, WEIGHTS)
    left, right = i64(records, record + PAIR) >> 32, i64(records, record + PAIR) & LOW_32
    left_size = i64(starts, left + 1) - i64(starts, left)
    right_size = i64(starts, right + 1) - i64(starts, right)
    first = i64(records, record + FIRST)
    set_number(table, IN_NOTES, 0)
    for k in range(first, first + i64(records, record + LENGTH)):
        at = u32(places, k)
        middle, end = at + left_size, at + left_size + right_size
        if u32(cells, at) != left or u32(cells, middle) != right:
            continue
        set_u32(cells, middle - 1, GONE)
        set_u32(cells, middle, GONE)
        set_u32(cells, at, new)
        set_u32(cells, end - 1, new)
        weight = i64(weights, u32(owners, at))
        before, behind = u32(cells, at - 1), u32(cells, end)
        if before != EDGE:
            lower(table, before, left, new, weight)
            size = i64(starts, before + 1) - i64(starts, before)
            note(table, before, BEFORE_IT, at - size, weight)
        if behind != EDGE:
            lower(table, right, behind, new, weight)
            note(table, behind, BEHIND_IT, at, weight)


@helper
def lower(table: int, left: int, right: int, new: int, weight: int) -> None:
    """A pair has lost a place. Where its left token is the new one, it was noted just now, as a neighbour behind it."""
    if left == new:
        neighbours = span(table, NEIGHBOURS)
        set_i64(neighbours, 4 * right + 2, i64(neighbours, 4 * right + 2) - weight)
        return
    record = record_of(table, left << 32 | right)
    if record >= 0:
        records = span(table, RECORDS)
        set_i64(records, record + COUNT, i64(records, record + COUNT) - weight)


@helper
def note(table: int, neighbour: int, side: int, place: int, weight: int) -> None:
    """A neighbour of the new token: NEIGHBOURS has (count, how many places) for each token on each side."""
    neighbours, notes, count = span(table, NEIGHBOURS), span(table, NOTES), number(table, IN_NOTES)
    item = 4 * neighbour + 2 * side
    set_i64(neighbours, item, i64(neighbours, item) + weight)
    set_i64(neighbours, item + 1, i64(neighbours, item + 1) + 1)
    set_i64(notes, count, item << 32 | place)
    set_number(table, IN_NOTES, count + 1)


@helper
def enter_neighbours(table: int, new: int) -> None:
    """Make a record of each pair that was noted, with its places in the order of the notes."""
    neighbours, notes, count = span(table, NEIGHBOURS), span(table, NOTES), number(table, IN_NOTES)
    first_record = number(table, IN_RECORDS)
    for k in range(count):
        item, place = i64(notes, k) >> 32, i64(notes, k) & LOW_32
        places = i64(neighbours, item + 1)
        if places > 0:  # the first note of this neighbour
            weight = i64(neighbours, item)
            pair = new << 32 | item >> 2 if item & 2 else item >> 2 << 32 | new
            record = -1 if weight < number(table, LEAST) else new_record(table, pair, weight, number(table, IN_PLACES))
            set_number(table, IN_PLACES, number(table, IN_PLACES) + (places if record >= 0 else 0))
            set_i64(neighbours, item, record)
            set_i64(neighbours, item + 1, 0)
        if i64(neighbours, item) >= 0:
            add_place(table, i64(neighbours, item), place)
    for k in range(count):
        set_i64(neighbours, i64(notes, k) >> 32, 0)
    for record in range(first_record, number(table, IN_RECORDS), RECORD):
        push_record(table, record)
