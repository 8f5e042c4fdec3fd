"""Encode and decode text, and fill the tables of a vocabulary."""

from llamita.jit.machine_code import Kernel
from llamita.jit.spans import Span, eight, i64, set_eight, set_i64, set_u32, u32
from llamita.tokenizer.kernels.memory import (
    BLOCKS,
    BYTE_PAIRS,
    BYTES,
    CONSUMED,
    FREQUENT,
    IDS,
    KINDS,
    MASKS,
    PAGES,
    PAIRS,
    PARTS,
    PATTERN,
    STARTS,
    TEXT,
    WHOLE,
    WORDS,
    ZERO,
    number,
    set_number,
    span,
)  # fmt: skip
from llamita.tokenizer.kernels.merging import LOW_32, NEVER, merge_piece, scrambled
from llamita.tokenizer.kernels.pieces import Text, piece_end, settled
from llamita.tokenizer.kernels.words import (
    COUNT_BIT,
    FREQUENT_WORDS,
    WORD_BYTES,
    WORD_IDS,
    hash_of,
    longer_ids,
    new_word_ids,
    remember_longer,
    remember_word,
    word_hash,
    word_key,
    word_slot,
)  # fmt: skip


@Kernel
def decoded_size(table: int, ids: int, count: int) -> int:
    """Bytes of the text of `count` uint32 ids below vocab_size; unused ids have none."""
    given, starts = Span(ids, 4 * count), span(table, STARTS)
    size = 0
    for k in range(count):
        token = u32(given, k)
        size += i64(starts, token + 1) - i64(starts, token)
    return size


@Kernel
def decode(table: int, ids: int, count: int, out: int, out_size: int) -> None:
    """Write the bytes of `count` ids to `out`, 16 at a time. Its size must be 16 more than theirs."""
    given, starts, stored, text = Span(ids, 4 * count), span(table, STARTS), span(table, BYTES), Span(out, out_size)
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


@Kernel
def enter_tokens(table: int, selected: int, count: int) -> None:
    """Fill WORDS and LONGER with the tokens of BYTES whose flag (uint32) in `selected` is set, as if they were pieces.

    Where WHOLE is set, a piece that is a token is its own encoding; else it is merged like all others.
    """
    text, starts, stored = span(table, TEXT), span(table, STARTS), span(table, BYTES)
    flags, parts, masks = Span(selected, 4 * count), span(table, PARTS), span(table, MASKS)
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


@Kernel
def enter_pairs(table: int, offers: int, count: int) -> None:
    """Fill PAIRS and BYTE_PAIRS from `count` items (left << 32 | right, rank << 32 | id); of duplicates, the first."""
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


@Kernel
def encode(table: int, size: int, final: int) -> int:
    """Encode the first `size` bytes of TEXT into IDS -> how many ids.

    If not `final`, more text follows, and the pieces that it may change are left. Sets CONSUMED to the bytes encoded.
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


ENCODING = decoded_size, decode, enter_tokens, enter_pairs, encode
"""All kernels that encode and decode."""
