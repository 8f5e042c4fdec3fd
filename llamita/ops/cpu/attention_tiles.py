"""FlashAttention on the CPU: bf16 dot-product instructions on tiles of scores that stay in L1 and L2.

A block of queries attends to one block of keys at a time. When a larger score appears, the row sum l and the output O
are rescaled to the new row maximum m (online softmax; Dao et al., 2022). With s = 1 / sqrt(head_dim):

    S = Q Kᵀ,   m' = max(m, s · S),   P = exp(s · S - m'),   l' = exp(m - m') · l + ΣP,   O' = exp(m - m') · O + P V

The result is O / l, and lse = m + ln l is saved. The backward pass recomputes P from lse, and needs
delta = ΣP ∘ dP = ΣO ∘ dO for each query:

    P = exp(s · S - lse),   dV += Pᵀ dO,   dP = dO Vᵀ,   dS = s · P ∘ (dP - delta),   dQ += dS K,   dK += dSᵀ Q

One thread computes one key-value head and all query heads that share it. Matrix products are bf16, everything else is
fp32. In the argument table, strides are in elements; in a thread's scratch buffer, offsets are in bytes.
"""

import math

import numpy as np
import torch
from torch import Tensor

from llamita.jit.machine_code import ParallelKernel
from llamita.jit.pool import ARGS, NUM_ROWS
from llamita.jit.primitives import (
    F,
    as_fp64,
    atomic_add,
    bf16_ptr,
    bits_to_fp32,
    exp,
    fp32_ptr,
    fp32_to_bits,
    helper,
    int64_ptr,
    load,
    log,
    next_chunk,
    round_to_bf16,
    store,
    uint32_ptr,
)
from llamita.jit.tiles import LANES, WIDTH, has_bf16_products, multiply, pack_columns, pack_rows, round_up
from llamita.ops.cpu.launch import launch
from llamita.ops.cpu.scratch import scratch

BLOCK_Q = 32  # queries per block; must be even
BLOCK_K = 256  # keys per block
MASK_STEP = 64  # scores; four vectors, the factor by which LLVM unrolls the loops
FP32, BF16 = 4, 2  # bytes

SIZES, LSE, SCRATCH, OFFSETS, TENSORS = (ARGS + position for position in (0, 6, 7, 10, 26))
"""Where the sections of the argument table begin: sizes, lse, scratch memory, offsets of its buffers, tensors."""
Q, K, V, OUT, DO, DQ, DK, DV = range(TENSORS, TENSORS + 32, 4)
"""Each tensor is an address and three strides: of the batch, the heads and the positions."""
K_COLUMNS, V_COLUMNS, K_ROWS, V_ROWS, Q_ROWS, DO_ROWS = range(OFFSETS, OFFSETS + 6)  # packed operands, bf16
DK_SUM, DV_SUM, OUT_SUM, S_TILE, DS_TILE = range(OFFSETS + 6, OFFSETS + 11)  # fp32; the first three accumulate
P_TILE, DS_ROWS, DS_PAIRS, ROW_MAX, ROW_SUM = range(OFFSETS + 11, OFFSETS + 16)
"""Offsets of the buffers in a thread's scratch memory. In the backward pass OUT_SUM holds dQ, ROW_SUM delta."""


def supports(tensors: tuple[Tensor, ...]) -> bool:
    """Whether the tiled kernels can read these tensors, q first: the bf16 dot product needs pairs of elements."""
    in_pairs = tensors[0].shape[3] % 2 == 0 and not any(stride % 2 for x in tensors for stride in x.stride()[:3])
    return has_bf16_products() and in_pairs


def forward(q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor) -> None:
    """Fill `out`, of the shape of q, and `logsumexp` (batch, heads, seq) fp32."""
    _launch(_forward, (q, k, v, out), logsumexp)


def backward(tensors: tuple[Tensor, ...], logsumexp: Tensor) -> None:
    """Given q, k, v, out, d_out, d_q, d_k, d_v, fill the last three."""
    _launch(_backward, tensors, logsumexp)


def _launch(kernel: ParallelKernel, tensors: tuple[Tensor, ...], logsumexp: Tensor) -> None:
    q, k = tensors[:2]
    (batch, heads, seq, head_dim), kv_heads, block = q.shape, k.shape[1], BLOCK_Q
    sizes = _buffer_sizes(round_up(seq, WIDTH), head_dim, block)
    offsets, per_thread = [sum(sizes[:which]) for which in range(len(sizes))], sum(sizes)
    memory = scratch("tiles", torch.get_num_threads() * per_thread, like=q, dtype=torch.uint8)
    next_thread = torch.zeros(1, dtype=torch.int64)
    tensor_args = [number for x in tensors for number in (x, *x.stride()[:3])]
    size_args = kv_heads, heads // kv_heads, seq, head_dim, block, 1 / math.sqrt(head_dim)
    scratch_args = memory, per_thread, next_thread, *offsets
    launch(kernel, batch * kv_heads, 1, *size_args, logsumexp, *scratch_args, *tensor_args)


def _buffer_sizes(seq: int, head_dim: int, block: int) -> list[int]:
    """Bytes of each buffer in a thread's scratch memory, in the order of their offsets."""
    columns = round_up(head_dim, LANES)
    packed = [seq * head_dim * BF16] * 2 + [seq * columns * BF16] * 2 + [block * columns * BF16] * 2
    sums = [seq * columns * FP32] * 2 + [block * columns * FP32] + [block * BLOCK_K * FP32] * 2
    return [*packed, *sums, *[block * BLOCK_K * BF16] * 3, *[block * FP32] * 2]


@helper
def _thread_scratch(table):
    """The address of this thread's scratch memory. Each thread calls it once per launch."""
    return table[SCRATCH] + table[SCRATCH + 1] * atomic_add(int64_ptr(table[SCRATCH + 2]), 1)


@helper
def _buffer(table, base, which):
    """The address of a buffer in the scratch memory at `base`."""
    return base + table[which]


@helper
def _sizes(table):
    """-> kv_heads, query heads per kv head, seq, head_dim, queries per block."""
    return table[SIZES], table[SIZES + 1], table[SIZES + 2], table[SIZES + 3], table[SIZES + 4]


@helper
def _softmax_scale(table):
    return F(as_fp64(table[SIZES + 5]))


@helper
def _address(table, tensor, batch, head, position):
    """The address of tensor[batch, head, position]."""
    return table[tensor] + BF16 * (batch * table[tensor + 1] + head * table[tensor + 2] + position * table[tensor + 3])


@helper
def _stride(table, tensor):
    """The stride between positions."""
    return table[tensor + 3]


@helper
def _lse(table, batch, head, start):
    """lse of the queries from `start` on."""
    heads, group, seq, _, _ = _sizes(table)
    return fp32_ptr(table[LSE] + FP32 * ((batch * heads * group + head) * seq + start))


@helper
def _fill(memory, first, end, value):
    for i in range(first, end):
        memory[i] = value


@helper
def _mask_tail(scores, first, visible, value):
    """Set the scores after the visible ones to `value`, up to a multiple of MASK_STEP -> that many scores."""
    width = round_up(visible, MASK_STEP)
    _fill(scores, first + visible, first + width, value)
    return width


@ParallelKernel
def _forward(table):
    heads, group, seq, head_dim, block = _sizes(table)
    base = _thread_scratch(table)
    task = next_chunk(table)
    while task < table[NUM_ROWS]:
        batch, kv_head = task // heads, task % heads
        k, v = _address(table, K, batch, kv_head, 0), _address(table, V, batch, kv_head, 0)
        pack_columns(_buffer(table, base, K_COLUMNS), k, _stride(table, K), seq, head_dim)
        pack_rows(_buffer(table, base, V_ROWS), v, _stride(table, V), seq, head_dim)
        for head in range(kv_head * group, (kv_head + 1) * group):
            for start in range(0, seq, block):
                rows = min(block, seq - start)
                q = _address(table, Q, batch, head, start)
                for key in range(0, start + rows, BLOCK_K):
                    _forward_block(table, base, q, rows, start, key)
                _store_output(table, base, batch, head, start, rows)
        task = next_chunk(table)


@helper
def _forward_block(table, base, q, rows, start, key):
    """One block of queries against the block of keys that begins at `key`."""
    _, _, seq, head_dim, _ = _sizes(table)
    visible, half, columns = min(BLOCK_K, start + rows - key), head_dim // 2, round_up(head_dim, LANES)
    s, p, out = _buffer(table, base, S_TILE), _buffer(table, base, P_TILE), _buffer(table, base, OUT_SUM)
    k, v = _buffer(table, base, K_COLUMNS) + FP32 * key * half, _buffer(table, base, V_ROWS)
    multiply(s, BLOCK_K, q, _stride(table, Q) // 2, 1, k, half, 0, rows, round_up(visible, WIDTH), half, False)
    _online_softmax(table, base, rows, start + 1 - key, round_up(visible, WIDTH), key == 0)
    steps, all_steps = (visible + 1) // 2, (seq + 1) // 2
    multiply(out, columns, p, BLOCK_K // 2, 1, v, all_steps, key // 2, rows, columns, steps, key > 0)


@helper
def _online_softmax(table, base, rows, first_visible, width, is_first):
    """S -> P for a block of keys, the first query of which sees `first_visible`; updates m, l and O."""
    columns, scale = round_up(table[SIZES + 3], LANES), _softmax_scale(table)
    s, p = fp32_ptr(_buffer(table, base, S_TILE)), bf16_ptr(_buffer(table, base, P_TILE))
    row_max, row_sum = fp32_ptr(_buffer(table, base, ROW_MAX)), fp32_ptr(_buffer(table, base, ROW_SUM))
    out = fp32_ptr(_buffer(table, base, OUT_SUM))
    for row in range(rows):
        visible, first, masked = min(first_visible + row, width), row * BLOCK_K, 0
        if visible > 0:
            masked = _mask_tail(s, first, visible, F(-np.inf))
            new_max, old_sum = _max(s, first, masked) * scale, F(0.0)
            if not is_first:
                new_max = row_max[row] if new_max < row_max[row] else new_max
                alpha = exp(row_max[row] - new_max)
                old_sum = row_sum[row] * alpha
                _rescale(out, row * columns, columns, alpha)
            row_max[row], row_sum[row] = new_max, old_sum + _exp_row(s, p, first, masked, scale, new_max)
        _fill(p, first + masked, first + width, np.uint16(0))


@helper
def _max(scores, first, count):
    """The maximum of fp32 values, NaN if one of them is. LLVM vectorizes a maximum of integers, not of floats."""
    highest = _ordered_int(np.int32(fp32_to_bits(scores[first])))
    for i in range(first, first + count):
        highest = max(highest, _ordered_int(np.int32(fp32_to_bits(scores[i]))))
    return bits_to_fp32(np.uint32(_ordered_int(highest)))


@helper
def _ordered_int(bits):
    """The bits of an fp32 value -> an int32 that sorts like it. Its own inverse."""
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@helper
def _rescale(out, first, count, alpha):
    for i in range(first, first + count):
        out[i] *= alpha


@helper
def _exp_row(s, p, first, count, scale, row_max):
    """S -> P for one query; returns ΣP."""
    total = F(0.0)
    for i in range(first, first + count):
        value = exp(s[i] * scale - row_max)
        total += value
        store(p, i, value)
    return total


@helper
def _store_output(table, base, batch, head, start, rows):
    """Write O / l and lse."""
    head_dim, columns, stride = table[SIZES + 3], round_up(table[SIZES + 3], LANES), _stride(table, OUT)
    o, lse = bf16_ptr(_address(table, OUT, batch, head, start)), _lse(table, batch, head, start)
    row_max, row_sum = fp32_ptr(_buffer(table, base, ROW_MAX)), fp32_ptr(_buffer(table, base, ROW_SUM))
    out = fp32_ptr(_buffer(table, base, OUT_SUM))
    for row in range(rows):
        factor = F(1.0) / row_sum[row]
        for i in range(head_dim):
            store(o, row * stride + i, out[row * columns + i] * factor)
        lse[row] = row_max[row] + log(row_sum[row])


@ParallelKernel
def _backward(table):
    heads, group, seq, head_dim, block = _sizes(table)
    base = _thread_scratch(table)
    dk, dv = _buffer(table, base, DK_SUM), _buffer(table, base, DV_SUM)
    task = next_chunk(table)
    while task < table[NUM_ROWS]:
        batch, kv_head = task // heads, task % heads
        _pack_kv_head(table, base, batch, kv_head)
        _fill(fp32_ptr(dk), 0, round_up(seq, WIDTH) * round_up(head_dim, LANES), F(0.0))
        _fill(fp32_ptr(dv), 0, round_up(seq, WIDTH) * round_up(head_dim, LANES), F(0.0))
        for head in range(kv_head * group, (kv_head + 1) * group):
            for start in range(0, seq, block):
                rows = min(block, seq - start)
                _pack_q_block(table, base, batch, head, start, rows)
                if start + rows > BLOCK_K:
                    _compute_delta(table, base, batch, head, start, rows)
                for key in range(0, start + rows, BLOCK_K):
                    _backward_block(table, base, batch, head, start, rows, key)
                _store_grad(_buffer(table, base, OUT_SUM), table, DQ, batch, head, start, rows)
        _store_grad(dk, table, DK, batch, kv_head, 0, seq)
        _store_grad(dv, table, DV, batch, kv_head, 0, seq)
        task = next_chunk(table)


@helper
def _pack_kv_head(table, base, batch, kv_head):
    _, _, seq, head_dim, _ = _sizes(table)
    k, v = _address(table, K, batch, kv_head, 0), _address(table, V, batch, kv_head, 0)
    pack_columns(_buffer(table, base, K_COLUMNS), k, _stride(table, K), seq, head_dim)
    pack_columns(_buffer(table, base, V_COLUMNS), v, _stride(table, V), seq, head_dim)
    pack_rows(_buffer(table, base, K_ROWS), k, _stride(table, K), seq, head_dim)


@helper
def _pack_q_block(table, base, batch, head, start, rows):
    head_dim = table[SIZES + 3]
    q, do = _address(table, Q, batch, head, start), _address(table, DO, batch, head, start)
    pack_rows(_buffer(table, base, Q_ROWS), q, _stride(table, Q), rows, head_dim)
    pack_rows(_buffer(table, base, DO_ROWS), do, _stride(table, DO), rows, head_dim)


@helper
def _compute_delta(table, base, batch, head, start, rows):
    """delta = ΣO ∘ dO for each query."""
    head_dim, do_stride, o_stride = table[SIZES + 3], _stride(table, DO), _stride(table, OUT)
    do, o = bf16_ptr(_address(table, DO, batch, head, start)), bf16_ptr(_address(table, OUT, batch, head, start))
    deltas = fp32_ptr(_buffer(table, base, ROW_SUM))
    for row in range(rows):
        delta = F(0.0)
        for i in range(head_dim):
            delta += load(do, row * do_stride + i) * load(o, row * o_stride + i)
        deltas[row] = delta


@helper
def _backward_block(table, base, batch, head, start, rows, key):
    """Accumulate dQ, dK and dV from one block of queries and the block of keys that begins at `key`."""
    _, _, seq, head_dim, _ = _sizes(table)
    visible, half, steps = min(BLOCK_K, start + rows - key), head_dim // 2, (rows + 1) // 2
    width, offset, columns = round_up(visible, WIDTH), FP32 * key * half, round_up(head_dim, LANES)
    q, do = _address(table, Q, batch, head, start), _address(table, DO, batch, head, start)
    s, k = _buffer(table, base, S_TILE), _buffer(table, base, K_COLUMNS) + offset
    multiply(s, BLOCK_K, q, _stride(table, Q) // 2, 1, k, half, 0, rows, width, half, False)
    dp, v = _buffer(table, base, DS_TILE), _buffer(table, base, V_COLUMNS) + offset
    multiply(dp, BLOCK_K, do, _stride(table, DO) // 2, 1, v, half, 0, rows, width, half, False)
    sees_all = start + rows <= BLOCK_K
    _backward_softmax(table, base, _lse(table, batch, head, start), rows, start + 1 - key, width, sees_all)
    dv, p = _buffer(table, base, DV_SUM) + FP32 * key * columns, _buffer(table, base, P_TILE)
    multiply(dv, columns, p, 1, BLOCK_K, _buffer(table, base, DO_ROWS), steps, 0, width, columns, steps, True)
    dk, ds = _buffer(table, base, DK_SUM) + FP32 * key * columns, _buffer(table, base, DS_PAIRS)
    multiply(dk, columns, ds, 1, BLOCK_K, _buffer(table, base, Q_ROWS), steps, 0, width, columns, steps, True)
    dq, ds = _buffer(table, base, OUT_SUM), _buffer(table, base, DS_ROWS)
    k, steps, all_steps = _buffer(table, base, K_ROWS), (visible + 1) // 2, (seq + 1) // 2
    multiply(dq, columns, ds, BLOCK_K // 2, 1, k, all_steps, key // 2, rows, columns, steps, key > 0)


@helper
def _backward_softmax(table, base, lse, rows, first_visible, width, sees_all):
    """S -> P and dP -> dS, packed as pairs of rows for Pᵀ dO and dSᵀ Q; dS also as rows for dS K."""
    scale, deltas = _softmax_scale(table), fp32_ptr(_buffer(table, base, ROW_SUM))
    p, ds = fp32_ptr(_buffer(table, base, S_TILE)), fp32_ptr(_buffer(table, base, DS_TILE))
    ds_rows = bf16_ptr(_buffer(table, base, DS_ROWS))
    for row in range(rows):
        visible, first = max(0, min(first_visible + row, width)), row * BLOCK_K
        masked = _mask_tail(ds, first, visible, F(0.0))
        _mask_tail(p, first, visible, F(-np.inf))
        delta = _recompute_p(p, ds, first, masked, scale, lse[row])
        _compute_ds(p, ds, ds_rows, first, masked, scale, delta if sees_all else deltas[row])
        _fill(p, first + masked, first + width, F(0.0))
        _fill(ds, first + masked, first + width, F(0.0))
        _fill(ds_rows, first + masked, first + width, np.uint16(0))
    _pack_row_pairs(uint32_ptr(_buffer(table, base, P_TILE)), p, rows, width)
    _pack_row_pairs(uint32_ptr(_buffer(table, base, DS_PAIRS)), ds, rows, width)


@helper
def _recompute_p(p, dp, first, count, scale, lse):
    """S -> P for one query; returns ΣP ∘ dP over these keys.

    Where these are all the keys of the query, that sum is delta, and more accurate than ΣO ∘ dO, since O is bf16.
    """
    delta = F(0.0)
    for i in range(first, first + count):
        value = exp(p[i] * scale - lse)
        p[i] = value
        delta += value * dp[i]
    return delta


@helper
def _compute_ds(p, ds, ds_rows, first, count, scale, delta):
    """dP -> dS for one query, in place in fp32 and to `ds_rows` in bf16."""
    for i in range(first, first + count):
        value = p[i] * (ds[i] - delta) * scale
        ds[i] = value
        store(ds_rows, i, value)


@helper
def _pack_row_pairs(pairs, x, rows, width):
    """fp32 -> bf16, interleaving rows 2n and 2n + 1; an odd last row is paired with zeros."""
    if rows % 2:
        _fill(x, rows * BLOCK_K, rows * BLOCK_K + width, F(0.0))
    for step in range((rows + 1) // 2):
        even, odd = 2 * step * BLOCK_K, (2 * step + 1) * BLOCK_K
        for i in range(width):
            low, high = np.uint32(round_to_bf16(x[even + i])), np.uint32(round_to_bf16(x[odd + i]))
            pairs[step * BLOCK_K + i] = low | (high << np.uint32(16))


@helper
def _store_grad(sums, table, tensor, batch, head, start, rows):
    """Round fp32 sums to bf16, into the gradient."""
    head_dim, columns, stride = table[SIZES + 3], round_up(table[SIZES + 3], LANES), _stride(table, tensor)
    grad, x = bf16_ptr(_address(table, tensor, batch, head, start)), fp32_ptr(sums)
    for row in range(rows):
        for i in range(head_dim):
            store(grad, row * stride + i, x[row * columns + i])
