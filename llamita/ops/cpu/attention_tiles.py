"""Causal attention by the processor's bf16 dot products, on tiles of scores that never leave the near caches.

A block of queries attends to a block of keys at a time; the running sums are rescaled when a larger score appears
(online softmax, as in FlashAttention; Dao et al., 2022). With m the maximum so far, and s = 1 / sqrt(head_dim):

    m' = max(m, s · S),   P = exp(s · S - m'),   Σ' = exp(m - m') · Σ + ΣP,   O' = exp(m - m') · O + P V

O / Σ is the result, and l = m + ln Σ is kept. In the backward pass P follows from l, and delta = ΣP ∘ dP = ΣO ∘ dO:

    P = exp(s · S - l),   dV += Pᵀ dO,   dS = s · P ∘ (dO Vᵀ - delta),   dQ += dS K,   dK += dSᵀ Q

A thread computes a key and value head with all query heads that share it. Products are bf16, everything else is fp32.
In a table, strides are in elements; in the scratch buffer of a thread, offsets are in bytes.
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
from llamita.ops.cpu.scratch import scratch

QUERIES = 32  # in a block; an even number
KEYS = 256  # in a block
SCORES_PER_STEP = 64  # four vectors: as far as the compiler unrolls its loops
FP32, BF16 = 4, 2  # bytes

CALL, LOGSUMEXP, BUFFERS, PARTS, TENSORS = (FIRST_ARGUMENT + position for position in (0, 6, 7, 10, 26))
"""Where in a table these begin: sizes, the logsumexp, the scratch buffers, the offsets of their parts, tensors."""
Q, K, V, OUT, GRAD, D_Q, D_K, D_V = range(TENSORS, TENSORS + 32, 4)
"""Each tensor has an address and three strides: of sequences, heads and positions."""
KEY_COLUMNS, VALUE_COLUMNS, KEY_ROWS, VALUE_ROWS, QUERY_ROWS, GRAD_ROWS = range(PARTS, PARTS + 6)  # packed
D_KEYS, D_VALUES, RESULTS, SCORES, D_SCORES = range(PARTS + 6, PARTS + 11)  # sums of products, fp32
PROBABILITIES, D_SCORES_ROWS, D_SCORES_PAIRS, MAXIMA, SUMS = range(PARTS + 11, PARTS + 16)
"""The offset of each part in the scratch buffer of a thread."""


def fits(tensors: tuple[Tensor, ...]) -> bool:
    """Whether the tiles can compute on these tensors, the first of which is q: the dot product takes pairs."""
    in_pairs = tensors[0].shape[3] % 2 == 0 and not any(stride % 2 for x in tensors for stride in x.stride()[:3])
    return has_bf16_products() and in_pairs


def forward(q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor) -> None:
    """Fill `out`, of the shape of q, and `logsumexp` (batch, heads, seq) fp32."""
    _run(_forward, (q, k, v, out), logsumexp)


def backward(tensors: tuple[Tensor, ...], logsumexp: Tensor) -> None:
    """q, k, v, out, d_out, d_q, d_k, d_v: fill the last three."""
    _run(_backward, tensors, logsumexp)


def _run(body: Body, tensors: tuple[Tensor, ...], logsumexp: Tensor) -> None:
    q, k = tensors[:2]
    (batch, heads, seq, size), kv_heads, block = q.shape, k.shape[1], QUERIES
    sizes = _part_sizes(up_to(seq, WIDTH), size, block)
    offsets, own = [sum(sizes[:which]) for which in range(len(sizes))], sum(sizes)
    memory = scratch("tiles", torch.get_num_threads() * own, like=q, dtype=torch.uint8)
    buffers = memory, own, torch.zeros(1, dtype=torch.int64), *offsets
    places = [number for x in tensors for number in (x, *x.stride()[:3])]
    call = kv_heads, heads // kv_heads, seq, size, block, 1 / math.sqrt(size)
    run(body, batch * kv_heads, 1, *call, logsumexp, *buffers, *places)


def _part_sizes(seq: int, size: int, block: int) -> list[int]:
    """Bytes of each part of the scratch buffer of a thread, in their order."""
    columns = up_to(size, LANES)
    packed = [seq * size * BF16] * 2 + [seq * columns * BF16] * 2 + [block * columns * BF16] * 2
    sums = [seq * columns * FP32] * 2 + [block * columns * FP32] + [block * KEYS * FP32] * 2
    return [*packed, *sums, *[block * KEYS * BF16] * 3, *[block * FP32] * 2]


@helper
def _own_buffer(table):
    """The address of the scratch buffer of this thread."""
    return table[BUFFERS] + table[BUFFERS + 1] * add_together(int64s(table[BUFFERS + 2]), 1)


@helper
def _part(table, own, part):
    """The address of one of its parts."""
    return own + table[part]


@helper
def _sizes(table):
    """-> key heads, query heads per key head, positions, head_dim, queries in a block."""
    return table[CALL], table[CALL + 1], table[CALL + 2], table[CALL + 3], table[CALL + 4]


@helper
def _scale(table):
    return F(fp64(table[CALL + 5]))


@helper
def _vector(table, tensor, batch, head, position):
    """The address of a vector."""
    return table[tensor] + BF16 * (batch * table[tensor + 1] + head * table[tensor + 2] + position * table[tensor + 3])


@helper
def _step(table, tensor):
    """The stride of positions."""
    return table[tensor + 3]


@helper
def _logsumexp(table, batch, head, start):
    """l of the queries from `start` on."""
    heads, groups, seq, _, _ = _sizes(table)
    return fp32s(table[LOGSUMEXP] + FP32 * ((batch * heads * groups + head) * seq + start))


@helper
def _fill(memory, first, end, value):
    for i in range(first, end):
        memory[i] = value


@helper
def _mask(numbers, first, seen, value):
    """Set the scores after those seen to `value`, to the end of the last vector that has a seen one -> that end."""
    reach = up_to(seen, SCORES_PER_STEP)
    _fill(numbers, first + seen, first + reach, value)
    return reach


@Body
def _forward(table):
    heads, groups, seq, size, block = _sizes(table)
    own = _own_buffer(table)
    task = take_rows(table)
    while task < table[ROWS]:
        batch, shared = task // heads, task % heads
        keys, values = _vector(table, K, batch, shared, 0), _vector(table, V, batch, shared, 0)
        pack_columns(_part(table, own, KEY_COLUMNS), keys, _step(table, K), seq, size)
        pack_rows(_part(table, own, VALUE_ROWS), values, _step(table, V), seq, size)
        for head in range(shared * groups, (shared + 1) * groups):
            for start in range(0, seq, block):
                rows = min(block, seq - start)
                queries = _vector(table, Q, batch, head, start)
                for key in range(0, start + rows, KEYS):
                    _attend_keys(table, own, queries, rows, start, key)
                _finish(table, own, batch, head, start, rows)
        task = take_rows(table)


@helper
def _attend_keys(table, own, queries, rows, start, key):
    """Attend from a block of queries to the block of keys that begins at `key`."""
    _, _, seq, size, _ = _sizes(table)
    seen, half, columns = min(KEYS, start + rows - key), size // 2, up_to(size, LANES)
    scores, p, results = _part(table, own, SCORES), _part(table, own, PROBABILITIES), _part(table, own, RESULTS)
    keys, values = _part(table, own, KEY_COLUMNS) + FP32 * key * half, _part(table, own, VALUE_ROWS)
    multiply(scores, KEYS, queries, _step(table, Q) // 2, 1, keys, half, 0, rows, up_to(seen, WIDTH), half, False)
    _online_softmax(table, own, rows, start + 1 - key, up_to(seen, WIDTH), key == 0)
    steps, all_steps = (seen + 1) // 2, (seq + 1) // 2
    multiply(results, columns, p, KEYS // 2, 1, values, all_steps, key // 2, rows, columns, steps, key > 0)


@helper
def _online_softmax(table, own, rows, first_seen, width, is_first):
    """S -> P for a block of keys, `first_seen` of which the first query sees; updates m, Σ and O."""
    columns, scale = up_to(table[CALL + 3], LANES), _scale(table)
    scores, p = fp32s(_part(table, own, SCORES)), bf16s(_part(table, own, PROBABILITIES))
    largest, sums = fp32s(_part(table, own, MAXIMA)), fp32s(_part(table, own, SUMS))
    results = fp32s(_part(table, own, RESULTS))
    for row in range(rows):
        seen, first, reach = min(first_seen + row, width), row * KEYS, 0
        if seen > 0:
            reach = _mask(scores, first, seen, F(-np.inf))
            highest, before = _largest(scores, first, reach) * scale, F(0.0)
            if not is_first:
                highest = largest[row] if highest < largest[row] else highest
                factor = exp(largest[row] - highest)
                before = sums[row] * factor
                _rescale(results, row * columns, columns, factor)
            largest[row], sums[row] = highest, before + _exponentials(scores, p, first, reach, scale, highest)
        _fill(p, first + reach, first + width, np.uint16(0))


@helper
def _largest(scores, first, count):
    """The maximum of fp32 numbers, NaN where one is. A maximum of integers is vectorized, that of floats is not."""
    highest = _ordered(np.int32(bits_of(scores[first])))
    for i in range(first, first + count):
        highest = max(highest, _ordered(np.int32(bits_of(scores[i]))))
    return fp32_of(np.uint32(_ordered(highest)))


@helper
def _ordered(bits):
    """The bits of fp32 numbers -> integers in the same order; and back."""
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@helper
def _rescale(results, first, size, factor):
    for i in range(first, first + size):
        results[i] *= factor


@helper
def _exponentials(scores, p, first, count, scale, highest):
    """S -> P of one row -> ΣP."""
    total = F(0.0)
    for i in range(first, first + count):
        value = exp(scores[i] * scale - highest)
        total += value
        store(p, i, value)
    return total


@helper
def _finish(table, own, batch, head, start, rows):
    """O / Σ and l."""
    size, columns, step = table[CALL + 3], up_to(table[CALL + 3], LANES), _step(table, OUT)
    out, logsumexp = bf16s(_vector(table, OUT, batch, head, start)), _logsumexp(table, batch, head, start)
    largest, sums = fp32s(_part(table, own, MAXIMA)), fp32s(_part(table, own, SUMS))
    results = fp32s(_part(table, own, RESULTS))
    for row in range(rows):
        factor = F(1.0) / sums[row]
        for i in range(size):
            store(out, row * step + i, results[row * columns + i] * factor)
        logsumexp[row] = largest[row] + log(sums[row])


@Body
def _backward(table):
    heads, groups, seq, size, block = _sizes(table)
    own = _own_buffer(table)
    d_keys, d_values = _part(table, own, D_KEYS), _part(table, own, D_VALUES)
    task = take_rows(table)
    while task < table[ROWS]:
        batch, shared = task // heads, task % heads
        _pack_head(table, own, batch, shared)
        _fill(fp32s(d_keys), 0, up_to(seq, WIDTH) * up_to(size, LANES), F(0.0))
        _fill(fp32s(d_values), 0, up_to(seq, WIDTH) * up_to(size, LANES), F(0.0))
        for head in range(shared * groups, (shared + 1) * groups):
            for start in range(0, seq, block):
                rows = min(block, seq - start)
                _pack_queries(table, own, batch, head, start, rows)
                if start + rows > KEYS:
                    _delta(table, own, batch, head, start, rows)
                for key in range(0, start + rows, KEYS):
                    _attend_keys_backward(table, own, batch, head, start, rows, key)
                _write(_part(table, own, RESULTS), table, D_Q, batch, head, start, rows)
        _write(d_keys, table, D_K, batch, shared, 0, seq)
        _write(d_values, table, D_V, batch, shared, 0, seq)
        task = take_rows(table)


@helper
def _pack_head(table, own, batch, shared):
    _, _, seq, size, _ = _sizes(table)
    keys, values = _vector(table, K, batch, shared, 0), _vector(table, V, batch, shared, 0)
    pack_columns(_part(table, own, KEY_COLUMNS), keys, _step(table, K), seq, size)
    pack_columns(_part(table, own, VALUE_COLUMNS), values, _step(table, V), seq, size)
    pack_rows(_part(table, own, KEY_ROWS), keys, _step(table, K), seq, size)


@helper
def _pack_queries(table, own, batch, head, start, rows):
    size, queries, grad = (
        table[CALL + 3],
        _vector(table, Q, batch, head, start),
        _vector(table, GRAD, batch, head, start),
    )
    pack_rows(_part(table, own, QUERY_ROWS), queries, _step(table, Q), rows, size)
    pack_rows(_part(table, own, GRAD_ROWS), grad, _step(table, GRAD), rows, size)


@helper
def _delta(table, own, batch, head, start, rows):
    """delta = ΣO ∘ dO of each query."""
    size, grad_step, out_step = table[CALL + 3], _step(table, GRAD), _step(table, OUT)
    grad, out = bf16s(_vector(table, GRAD, batch, head, start)), bf16s(_vector(table, OUT, batch, head, start))
    deltas = fp32s(_part(table, own, SUMS))
    for row in range(rows):
        delta = F(0.0)
        for i in range(size):
            delta += load(grad, row * grad_step + i) * load(out, row * out_step + i)
        deltas[row] = delta


@helper
def _attend_keys_backward(table, own, batch, head, start, rows, key):
    """Add the gradients from a block of queries and the block of keys that begins at `key`."""
    _, _, seq, size, _ = _sizes(table)
    seen, half, steps = min(KEYS, start + rows - key), size // 2, (rows + 1) // 2
    width, here, columns = up_to(seen, WIDTH), FP32 * key * half, up_to(size, LANES)
    queries, grads = _vector(table, Q, batch, head, start), _vector(table, GRAD, batch, head, start)
    p, keys = _part(table, own, SCORES), _part(table, own, KEY_COLUMNS) + here
    multiply(p, KEYS, queries, _step(table, Q) // 2, 1, keys, half, 0, rows, width, half, False)
    d_s, values = _part(table, own, D_SCORES), _part(table, own, VALUE_COLUMNS) + here
    multiply(d_s, KEYS, grads, _step(table, GRAD) // 2, 1, values, half, 0, rows, width, half, False)
    sees_all = start + rows <= KEYS
    _backward_scores(table, own, _logsumexp(table, batch, head, start), rows, start + 1 - key, width, sees_all)
    d_values, pairs = _part(table, own, D_VALUES) + FP32 * key * columns, _part(table, own, PROBABILITIES)
    multiply(d_values, columns, pairs, 1, KEYS, _part(table, own, GRAD_ROWS), steps, 0, width, columns, steps, True)
    d_keys, pairs = _part(table, own, D_KEYS) + FP32 * key * columns, _part(table, own, D_SCORES_PAIRS)
    multiply(d_keys, columns, pairs, 1, KEYS, _part(table, own, QUERY_ROWS), steps, 0, width, columns, steps, True)
    results, d_rows = _part(table, own, RESULTS), _part(table, own, D_SCORES_ROWS)
    keys, steps, all_steps = _part(table, own, KEY_ROWS), (seen + 1) // 2, (seq + 1) // 2
    multiply(results, columns, d_rows, KEYS // 2, 1, keys, all_steps, key // 2, rows, columns, steps, key > 0)


@helper
def _backward_scores(table, own, logsumexp, rows, first_seen, width, sees_all):
    """S -> P and dP -> dS, packed as pairs of rows; dS as rows as well."""
    scale, deltas = _scale(table), fp32s(_part(table, own, SUMS))
    p, d_s = fp32s(_part(table, own, SCORES)), fp32s(_part(table, own, D_SCORES))
    d_rows = bf16s(_part(table, own, D_SCORES_ROWS))
    for row in range(rows):
        seen, first = max(0, min(first_seen + row, width)), row * KEYS
        reach = _mask(d_s, first, seen, F(0.0))
        _mask(p, first, seen, F(-np.inf))
        delta = _probabilities_row(p, d_s, first, reach, scale, logsumexp[row])
        _d_scores_row(p, d_s, d_rows, first, reach, scale, delta if sees_all else deltas[row])
        _fill(p, first + reach, first + width, F(0.0))
        _fill(d_s, first + reach, first + width, F(0.0))
        _fill(d_rows, first + reach, first + width, np.uint16(0))
    _pack_pairs(uint32s(_part(table, own, PROBABILITIES)), p, rows, width)
    _pack_pairs(uint32s(_part(table, own, D_SCORES_PAIRS)), d_s, rows, width)


@helper
def _probabilities_row(p, d_s, first, count, scale, log_sum):
    """S -> P of one query -> ΣP ∘ dP over these keys: over all keys it is more exact than ΣO ∘ dO, where O is bf16."""
    delta = F(0.0)
    for i in range(first, first + count):
        value = exp(p[i] * scale - log_sum)
        p[i] = value
        delta += value * d_s[i]
    return delta


@helper
def _d_scores_row(p, d_s, d_rows, first, count, scale, delta):
    for i in range(first, first + count):
        value = p[i] * (d_s[i] - delta) * scale
        d_s[i] = value
        store(d_rows, i, value)


@helper
def _pack_pairs(pairs, numbers, rows, width):
    """fp32 -> bf16, each row in pairs with the next one; an odd last row is paired with zeros."""
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
