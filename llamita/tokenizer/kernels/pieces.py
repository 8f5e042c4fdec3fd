"""Split text into pieces: the pretokenization patterns as state machines over one table of character classes."""

from typing import NamedTuple

from llamita.jit.language import helper
from llamita.jit.spans import Span, byte, constants, u16

OTHER, LETTER, NUMBER, SPACE, NEWLINE, END, BEYOND = constants(0, 7)
"""What `KINDS` says of a byte: the class of an ASCII character, BEYOND for the first byte of others, END after a text.

SPACE is whitespace that does not end a line. Sixteen bytes 0xFF, which UTF-8 never has, follow the text, so that no
loop has to check for its end.
"""
GPT2, CL100K, LLAMA3 = constants(0, 3)
LETTER_BITS = 3  # above these, `BLOCKS` has which letter of a contraction a character is, in any case
D, E, L, M, R, S, T, V = range(1, 9)

APOSTROPHE, BLANK = 0x27, 0x20


class Text(NamedTuple):
    """UTF-8 text, and the tables of character classes."""

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
    """The entry of the character at i in the two-level table of classes."""
    point = code_point(text, i)
    return byte(text.blocks, u16(text.pages, point >> 8) << 8 | (point & 0xFF))


@helper
def kind(text: Text, i: int) -> int:
    """The class of the character at i; END after the text."""
    found = byte(text.kinds, byte(text.bytes, i))
    return entry_of(text, i) & 7 if found == BEYOND else found


@helper
def run(text: Text, i: int, target: int) -> int:
    """The end of the run of characters of class `target` that begins at i."""
    while True:
        found = byte(text.kinds, byte(text.bytes, i))
        if found == target:
            i += 1
        elif found == BEYOND and entry_of(text, i) & 7 == target:
            i += width(text, i)
        else:
            return i


@helper
def whitespace(text: Text, i: int, pattern: int) -> int:
    r"""The end of the piece that begins with whitespace at i.

    gpt2: `\s+(?!\S)|\s+`; cl100k: `\s++$|\s*[\r\n]|\s+(?!\S)|\s`; llama3: `\s*[\r\n]+|\s+(?!\S)|\s+`. So a run goes
    up to its last line end, if the pattern has those; else its last character goes to the next piece.
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
    """The end of the piece that begins at i."""
    return gpt2_piece(text, i) if pattern == GPT2 else newer_piece(text, i, pattern)


@helper
def settled(text: Text, size: int) -> int:
    """The largest end of a piece that no text after the first `size` bytes can change; see `Scanner.split_stable`.

    Such a piece is followed by at least two characters, and by one that is not whitespace.
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
