"""Causal attention, as matrix products of the processor's own instructions on scores that never leave its near caches.

Some queries meet some keys at a time, and what they made of the keys before is scaled down when a larger score comes
along (FlashAttention; Dao et al., 2022). With m the largest score so far, and s = 1 / sqrt(head_dim):

    m' = max(m, s · S),   P = exp(s · S - m'),   Σ' = exp(m - m') · Σ + ΣP,   O' = exp(m - m') · O + P V

O / Σ is the result, and l = m + ln Σ is kept. Backward, P comes out of l, and ΣP ∘ dP of a query is that of O ∘ dO:

    P = exp(s · S - l),   dV += Pᵀ dO,   dS = s · P ∘ (dO Vᵀ - ΣO ∘ dO),   dQ += dS K,   dK += dSᵀ Q

A thread computes a head of keys and values with all query heads that share it. Products are of bf16, everything else
is fp32. In a table, distances are counted in elements; of what a thread has for itself, in bytes.
"""

import math

import numpy as np
import torch
from torch import Tensor

from llamita.jit.machine_code import Body
from llamita.jit.numbers import (
    F,
    add_together,
    bf16s,
    bits_of,
    exp,
    fp32_of,
    fp32s,
    fp64,
    helper,
    int64s,
    load,
    log,
    narrow,
    store,
    take_rows,
    uint32s,
)
from llamita.jit.pool import FIRST_ARGUMENT, ROWS
from llamita.jit.tiles import LANES, WIDTH, has_bf16_products, multiply, pack_columns, pack_rows, up_to
from llamita.ops.cpu.launch import run
from llamita.ops.cpu.workspace import scratch

QUERIES = 32  # of a block, where nobody says how many
SIZES = QUERIES, 2 * QUERIES
KEYS = 256  # that a block of queries meets at a time
AT_ONCE = 64  # scores of a row: four vectors, which is as the compiler unrolls its loops
FP32, BF16 = 4, 2  # bytes

CALL, LOGS, ROOM, PIECES, TENSORS = (FIRST_ARGUMENT + place for place in (0, 6, 7, 10, 26))
"""Where in a table these begin: sizes of the call, what is kept, memory of all threads, its pieces for one, tensors."""
Q, K, V, OUT, GRAD, D_Q, D_K, D_V = range(TENSORS, TENSORS + 32, 4)
"""Of each tensor there are the address and three distances: of sequences, heads and positions."""
KEY_COLUMNS, VALUE_COLUMNS, KEY_ROWS, VALUE_ROWS, QUERY_ROWS, GRAD_ROWS = range(PIECES, PIECES + 6)  # packed
OF_KEYS, OF_VALUES, OF_QUERIES, SCORES, SLOPES = range(PIECES + 6, PIECES + 11)  # sums of products, fp32
CHANCES, LINES_OF_SLOPES, PAIRS_OF_SLOPES, LARGEST, SUMS = range(PIECES + 11, PIECES + 16)
"""Where each piece begins in a thread's memory."""


def fits(tensors: tuple[Tensor, ...], queries: int) -> bool:
    """Whether a call with these tensors, of which the first is q, is for the tiles."""
    in_pairs = tensors[0].shape[3] % 2 == 0 and not any(stride % 2 for x in tensors for stride in x.stride()[:3])
    return has_bf16_products() and queries <= max(SIZES) and in_pairs


def attend(q: Tensor, k: Tensor, v: Tensor, out: Tensor, logs: Tensor, queries: int) -> None:
    """Fill `out` and `logs`, as `attention.attend` does."""
    _run(_attend, (q, k, v, out), logs, queries)


def attend_backward(tensors: tuple[Tensor, ...], logs: Tensor, queries: int) -> None:
    """q, k, v, the result, its gradient, and what is filled with theirs: as `attention.attend_backward` does."""
    _run(_attend_backward, tensors, logs, queries)


def _run(body: Body, tensors: tuple[Tensor, ...], logs: Tensor, queries: int) -> None:
    q, k = tensors[:2]
    (batch, heads, seq, size), kv_heads, block = q.shape, k.shape[1], up_to(queries or QUERIES, 2)
    pieces = _bytes_of_pieces(up_to(seq, WIDTH), size, block)
    begins, own = [sum(pieces[:which]) for which in range(len(pieces))], sum(pieces)
    memory = scratch("tiles", torch.get_num_threads() * own, like=q, dtype=torch.uint8)
    room = memory, own, torch.zeros(1, dtype=torch.int64), *begins
    places = [number for x in tensors for number in (x, *x.stride()[:3])]
    call = kv_heads, heads // kv_heads, seq, size, block, 1 / math.sqrt(size)
    run(body, batch * kv_heads, 1, *call, logs, *room, *places)


def _bytes_of_pieces(seq: int, size: int, block: int) -> list[int]:
    """Of each piece of a thread's memory, in their order."""
    columns = up_to(size, LANES)
    packed = [seq * size * BF16] * 2 + [seq * columns * BF16] * 2 + [block * columns * BF16] * 2
    sums = [seq * columns * FP32] * 2 + [block * columns * FP32] + [block * KEYS * FP32] * 2
    return [*packed, *sums, *[block * KEYS * BF16] * 3, *[block * FP32] * 2]


@helper
def _take_room(table):
    """The address of the memory that this thread has for itself."""
    return table[ROOM] + table[ROOM + 1] * add_together(int64s(table[ROOM + 2]), 1)


@helper
def _piece(table, own, piece):
    """The address of a piece of it."""
    return own + table[piece]


@helper
def _sizes(table):
    """-> heads of keys, query heads that share one, positions, head_dim, queries of a block."""
    return table[CALL], table[CALL + 1], table[CALL + 2], table[CALL + 3], table[CALL + 4]


@helper
def _scale(table):
    return F(fp64(table[CALL + 5]))


@helper
def _vector(table, tensor, batch, head, place):
    """The address of a vector."""
    return table[tensor] + BF16 * (batch * table[tensor + 1] + head * table[tensor + 2] + place * table[tensor + 3])


@helper
def _step(table, tensor):
    """The distance of two positions."""
    return table[tensor + 3]


@helper
def _logs(table, batch, head, start):
    """l of the queries from `start` on."""
    heads, groups, seq, _, _ = _sizes(table)
    return fp32s(table[LOGS] + FP32 * ((batch * heads * groups + head) * seq + start))


@helper
def _fill(memory, begin, end, value):
    for i in range(begin, end):
        memory[i] = value


@helper
def _hide(numbers, begin, seen, value):
    """Let the numbers behind those seen be `value`, as far as vectors reach that begin with a seen one -> how far."""
    reach = up_to(seen, AT_ONCE)
    _fill(numbers, begin + seen, begin + reach, value)
    return reach


@Body
def _attend(table):
    heads, groups, seq, size, block = _sizes(table)
    own = _take_room(table)
    task = take_rows(table)
    while task < table[ROWS]:
        batch, shared = task // heads, task % heads
        keys, values = _vector(table, K, batch, shared, 0), _vector(table, V, batch, shared, 0)
        pack_columns(_piece(table, own, KEY_COLUMNS), keys, _step(table, K), seq, size)
        pack_rows(_piece(table, own, VALUE_ROWS), values, _step(table, V), seq, size)
        for head in range(shared * groups, (shared + 1) * groups):
            for start in range(0, seq, block):
                rows = min(block, seq - start)
                queries = _vector(table, Q, batch, head, start)
                for key in range(0, start + rows, KEYS):
                    _meet(table, own, queries, rows, start, key)
                _finish(table, own, batch, head, start, rows)
        task = take_rows(table)


@helper
def _meet(table, own, queries, rows, start, key):
    """Let some queries meet the keys from `key` on."""
    _, _, seq, size, _ = _sizes(table)
    seen, half, columns = min(KEYS, start + rows - key), size // 2, up_to(size, LANES)
    scores, chances, results = _piece(table, own, SCORES), _piece(table, own, CHANCES), _piece(table, own, OF_QUERIES)
    keys, values = _piece(table, own, KEY_COLUMNS) + FP32 * key * half, _piece(table, own, VALUE_ROWS)
    multiply(scores, KEYS, queries, _step(table, Q) // 2, 1, keys, half, 0, rows, up_to(seen, WIDTH), half, False)
    _soften(table, own, rows, start + 1 - key, up_to(seen, WIDTH), key == 0)
    steps, all_steps = (seen + 1) // 2, (seq + 1) // 2
    multiply(results, columns, chances, KEYS // 2, 1, values, all_steps, key // 2, rows, columns, steps, key > 0)


@helper
def _soften(table, own, rows, first_seen, width, is_first):
    """S -> P for the next keys, of which the first query sees `first_seen`; m, Σ and O change with them."""
    columns, scale = up_to(table[CALL + 3], LANES), _scale(table)
    scores, chances = fp32s(_piece(table, own, SCORES)), bf16s(_piece(table, own, CHANCES))
    largest, sums = fp32s(_piece(table, own, LARGEST)), fp32s(_piece(table, own, SUMS))
    results = fp32s(_piece(table, own, OF_QUERIES))
    for row in range(rows):
        seen, begin, reach = min(first_seen + row, width), row * KEYS, 0
        if seen > 0:
            reach = _hide(scores, begin, seen, F(-np.inf))
            highest, before = _largest(scores, begin, reach) * scale, F(0.0)
            if not is_first:
                highest = largest[row] if highest < largest[row] else highest
                factor = exp(largest[row] - highest)
                before = sums[row] * factor
                _scale_down(results, row * columns, columns, factor)
            largest[row], sums[row] = highest, before + _soften_row(scores, chances, begin, reach, scale, highest)
        _fill(chances, begin + reach, begin + width, np.uint16(0))


@helper
def _largest(scores, begin, count):
    """The largest of some fp32 numbers; NaN where one is. An order of integers becomes vectors, that of floats not."""
    highest = _in_order(np.int32(bits_of(scores[begin])))
    for i in range(begin, begin + count):
        highest = max(highest, _in_order(np.int32(bits_of(scores[i]))))
    return fp32_of(np.uint32(_in_order(highest)))


@helper
def _in_order(bits):
    """The bits of fp32 numbers -> integers that grow as these do; and back."""
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@helper
def _scale_down(results, begin, size, factor):
    for i in range(begin, begin + size):
        results[i] *= factor


@helper
def _soften_row(scores, chances, begin, count, scale, highest):
    """-> ΣP."""
    total = F(0.0)
    for i in range(begin, begin + count):
        chance = exp(scores[i] * scale - highest)
        total += chance
        store(chances, i, chance)
    return total


@helper
def _finish(table, own, batch, head, start, rows):
    """O / Σ and l."""
    size, columns, step = table[CALL + 3], up_to(table[CALL + 3], LANES), _step(table, OUT)
    out, logs = bf16s(_vector(table, OUT, batch, head, start)), _logs(table, batch, head, start)
    largest, sums = fp32s(_piece(table, own, LARGEST)), fp32s(_piece(table, own, SUMS))
    results = fp32s(_piece(table, own, OF_QUERIES))
    for row in range(rows):
        factor = F(1.0) / sums[row]
        for i in range(size):
            store(out, row * step + i, results[row * columns + i] * factor)
        logs[row] = largest[row] + log(sums[row])


@Body
def _attend_backward(table):
    heads, groups, seq, size, block = _sizes(table)
    own = _take_room(table)
    of_keys, of_values = _piece(table, own, OF_KEYS), _piece(table, own, OF_VALUES)
    task = take_rows(table)
    while task < table[ROWS]:
        batch, shared = task // heads, task % heads
        _pack_head(table, own, batch, shared)
        _fill(fp32s(of_keys), 0, up_to(seq, WIDTH) * up_to(size, LANES), F(0.0))
        _fill(fp32s(of_values), 0, up_to(seq, WIDTH) * up_to(size, LANES), F(0.0))
        for head in range(shared * groups, (shared + 1) * groups):
            for start in range(0, seq, block):
                rows = min(block, seq - start)
                _pack_queries(table, own, batch, head, start, rows)
                if start + rows > KEYS:
                    _average(table, own, batch, head, start, rows)
                for key in range(0, start + rows, KEYS):
                    _meet_backward(table, own, batch, head, start, rows, key)
                _write(_piece(table, own, OF_QUERIES), table, D_Q, batch, head, start, rows)
        _write(of_keys, table, D_K, batch, shared, 0, seq)
        _write(of_values, table, D_V, batch, shared, 0, seq)
        task = take_rows(table)


@helper
def _pack_head(table, own, batch, shared):
    _, _, seq, size, _ = _sizes(table)
    keys, values = _vector(table, K, batch, shared, 0), _vector(table, V, batch, shared, 0)
    pack_columns(_piece(table, own, KEY_COLUMNS), keys, _step(table, K), seq, size)
    pack_columns(_piece(table, own, VALUE_COLUMNS), values, _step(table, V), seq, size)
    pack_rows(_piece(table, own, KEY_ROWS), keys, _step(table, K), seq, size)


@helper
def _pack_queries(table, own, batch, head, start, rows):
    size, queries, grad = (
        table[CALL + 3],
        _vector(table, Q, batch, head, start),
        _vector(table, GRAD, batch, head, start),
    )
    pack_rows(_piece(table, own, QUERY_ROWS), queries, _step(table, Q), rows, size)
    pack_rows(_piece(table, own, GRAD_ROWS), grad, _step(table, GRAD), rows, size)


@helper
def _average(table, own, batch, head, start, rows):
    """ΣO ∘ dO of each query."""
    size, grad_step, out_step = table[CALL + 3], _step(table, GRAD), _step(table, OUT)
    grad, out = bf16s(_vector(table, GRAD, batch, head, start)), bf16s(_vector(table, OUT, batch, head, start))
    means = fp32s(_piece(table, own, SUMS))
    for row in range(rows):
        mean = F(0.0)
        for i in range(size):
            mean += load(grad, row * grad_step + i) * load(out, row * out_step + i)
        means[row] = mean


@helper
def _meet_backward(table, own, batch, head, start, rows, key):
    """What some queries and the keys from `key` on add to their gradients."""
    _, _, seq, size, _ = _sizes(table)
    seen, half, steps = min(KEYS, start + rows - key), size // 2, (rows + 1) // 2
    width, here, columns = up_to(seen, WIDTH), FP32 * key * half, up_to(size, LANES)
    queries, grads = _vector(table, Q, batch, head, start), _vector(table, GRAD, batch, head, start)
    chances, keys = _piece(table, own, SCORES), _piece(table, own, KEY_COLUMNS) + here
    multiply(chances, KEYS, queries, _step(table, Q) // 2, 1, keys, half, 0, rows, width, half, False)
    slopes, values = _piece(table, own, SLOPES), _piece(table, own, VALUE_COLUMNS) + here
    multiply(slopes, KEYS, grads, _step(table, GRAD) // 2, 1, values, half, 0, rows, width, half, False)
    meets_all = start + rows <= KEYS
    _descend(table, own, _logs(table, batch, head, start), rows, start + 1 - key, width, meets_all)
    of_values, pairs = _piece(table, own, OF_VALUES) + FP32 * key * columns, _piece(table, own, CHANCES)
    multiply(of_values, columns, pairs, 1, KEYS, _piece(table, own, GRAD_ROWS), steps, 0, width, columns, steps, True)
    of_keys, pairs = _piece(table, own, OF_KEYS) + FP32 * key * columns, _piece(table, own, PAIRS_OF_SLOPES)
    multiply(of_keys, columns, pairs, 1, KEYS, _piece(table, own, QUERY_ROWS), steps, 0, width, columns, steps, True)
    of_queries, lines = _piece(table, own, OF_QUERIES), _piece(table, own, LINES_OF_SLOPES)
    keys, steps, all_steps = _piece(table, own, KEY_ROWS), (seen + 1) // 2, (seq + 1) // 2
    multiply(of_queries, columns, lines, KEYS // 2, 1, keys, all_steps, key // 2, rows, columns, steps, key > 0)


@helper
def _descend(table, own, logs, rows, first_seen, width, meets_all):
    """S -> P and dP -> dS, as pairs of rows; dS as rows, too."""
    scale, means = _scale(table), fp32s(_piece(table, own, SUMS))
    chances, slopes = fp32s(_piece(table, own, SCORES)), fp32s(_piece(table, own, SLOPES))
    lines = bf16s(_piece(table, own, LINES_OF_SLOPES))
    for row in range(rows):
        seen, begin = max(0, min(first_seen + row, width)), row * KEYS
        reach = _hide(slopes, begin, seen, F(0.0))
        _hide(chances, begin, seen, F(-np.inf))
        mean = _recall_row(chances, slopes, begin, reach, scale, logs[row])
        _descend_row(chances, slopes, lines, begin, reach, scale, mean if meets_all else means[row])
        _fill(chances, begin + reach, begin + width, F(0.0))
        _fill(slopes, begin + reach, begin + width, F(0.0))
        _fill(lines, begin + reach, begin + width, np.uint16(0))
    _pair_up(uint32s(_piece(table, own, CHANCES)), chances, rows, width)
    _pair_up(uint32s(_piece(table, own, PAIRS_OF_SLOPES)), slopes, rows, width)


@helper
def _recall_row(chances, slopes, begin, count, scale, log_sum):
    """S -> P of one query -> ΣP ∘ dP of these keys: where they are all keys, it is more exact than O, which is bf16."""
    mean = F(0.0)
    for i in range(begin, begin + count):
        chance = exp(chances[i] * scale - log_sum)
        chances[i] = chance
        mean += chance * slopes[i]
    return mean


@helper
def _descend_row(chances, slopes, lines, begin, count, scale, mean):
    for i in range(begin, begin + count):
        slope = chances[i] * (slopes[i] - mean) * scale
        slopes[i] = slope
        store(lines, i, slope)


@helper
def _pair_up(pairs, numbers, rows, width):
    """fp32 -> bf16, each row with the next one; a last row without another gets one of zeros."""
    if rows % 2:
        _fill(numbers, rows * KEYS, rows * KEYS + width, F(0.0))
    for step in range((rows + 1) // 2):
        one, other = 2 * step * KEYS, (2 * step + 1) * KEYS
        for i in range(width):
            upper, lower = np.uint32(narrow(numbers[one + i])), np.uint32(narrow(numbers[other + i]))
            pairs[step * KEYS + i] = upper | (lower << np.uint32(16))


@helper
def _write(sums, table, tensor, batch, head, start, rows):
    size, columns, step = table[CALL + 3], up_to(table[CALL + 3], LANES), _step(table, tensor)
    out, numbers = bf16s(_vector(table, tensor, batch, head, start)), fp32s(sums)
    for row in range(rows):
        for i in range(size):
            store(out, row * step + i, numbers[row * columns + i])
