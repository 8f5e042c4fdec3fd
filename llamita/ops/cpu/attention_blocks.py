"""Causal attention one block of queries at a time, with torch's matrix products and fused softmax kernels.

A block holds whole rows of scores, so softmax needs no running maximum. With s = 1 / sqrt(head_dim) and m the maximum
of s · S in each row:

    S = Q Kᵀ,   P = exp(s · S - m),   O = P V / ΣP,   lse = m + ln ΣP

    P = exp(s · S - lse),   dV = Pᵀ dO,   dP = dO Vᵀ,   dS = s · P ∘ (dP - delta),   dQ = dS K,   dK = dSᵀ Q

where delta = ΣP ∘ dP for each query. Matrix products are bf16 with fp32 accumulation, softmax is fp32, and dK and dV
are accumulated in fp32.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from llamita.jit.machine_code import ParallelKernel
from llamita.jit.pool import ARGS, NUM_ROWS
from llamita.jit.primitives import (
    F,
    as_fp64,
    bf16_ptr,
    chunk_end,
    copy_bf16,
    exp,
    fp32_ptr,
    from_ordered_int,
    helper,
    load,
    log,
    next_chunk,
    ordered_int,
    store,
)
from llamita.ops.cpu.launch import is_fake, launch
from llamita.ops.cpu.scratch import scratch

BLOCK_Q = 128  # queries per block
MAX_SCORES = 1 << 21  # per block, over all its heads: 4 MB of bf16
ROWS_PER_CHUNK = 16  # rows of scores


def forward(q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor) -> None:
    """Fill `out`, of the shape of q, and `logsumexp` (batch, heads, seq) fp32."""
    blocks = _Blocks(q, k)
    for heads, queries, keys in blocks.ranges():
        s = blocks.scores(0, heads, queries)
        torch.bmm(blocks.packed(0, q, heads, queries), blocks.packed(1, k, heads, keys).mT, out=s)
        _softmax_rows(s, logsumexp, blocks.row_sums, heads.start, queries.start, q.shape[3])
        o = torch.bmm(s, blocks.packed(1, v, heads, keys), out=blocks.vectors(0, heads, queries))
        blocks.unpack(o, out, heads, queries, blocks.row_sums)


def backward(
    inputs: tuple[Tensor, Tensor, Tensor],
    logsumexp: Tensor,
    grad: Tensor,
    grads: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Fill `grads`, of q, k and v, from `grad`, that of the output."""
    (q, k, v), (d_q, d_k, d_v) = inputs, grads
    blocks = _Blocks(q, k)
    for heads, queries, keys in blocks.ranges():
        q_block, do_block = blocks.packed(0, q, heads, queries), blocks.packed(1, grad, heads, queries)
        k_block, v_block = blocks.packed(2, k, heads, keys), blocks.packed(3, v, heads, keys)
        p = torch.bmm(q_block, k_block.mT, out=blocks.scores(0, heads, queries))  # S, then P
        ds = torch.bmm(do_block, v_block.mT, out=blocks.scores(1, heads, queries))  # dP, then dS
        _softmax_backward_rows(p, ds, logsumexp, heads.start, queries.start, q.shape[3])
        blocks.matmul(ds, k_block, d_q, heads, queries)
        blocks.accumulate_matmul(0, p.mT, do_block, d_v, heads, keys)
        blocks.accumulate_matmul(1, ds.mT, q_block, d_k, heads, keys)


class _Blocks:
    """The blocks of one call, and the scratch buffers they reuse. Heads are query heads, numbered over the batch.

    Query heads that share a key-value head (GQA) each get a copy of it, and its gradients are summed over them.
    """

    def __init__(self, q: Tensor, k: Tensor):
        self.block_q = max(1, min(BLOCK_Q, q.shape[2]))
        batch, self.num_heads, self.seq, self.head_dim = q.shape
        self.q, self.total_heads, self.group_size = q, batch * self.num_heads, self.num_heads // k.shape[1]
        fitting = min(self.total_heads, MAX_SCORES // max(1, self.block_q * self.seq))
        self.block_heads = max(1, fitting // self.group_size) * self.group_size  # whole groups
        self.row_sums = scratch("sums", self.block_heads * self.block_q, like=q, dtype=torch.float32)

    def ranges(self) -> Iterator[tuple[slice, slice, slice]]:
        """(heads, queries, visible keys) of each block, longest context first.

        With FakeTensors only the first block, which allocates as much as any.
        """
        for head in range(0, self.total_heads, self.block_heads):
            for start in reversed(range(0, self.seq, self.block_q)):
                stop = min(start + self.block_q, self.seq)
                yield slice(head, min(head + self.block_heads, self.total_heads)), slice(start, stop), slice(0, stop)
                if is_fake(self.q):
                    return

    def scores(self, which: int, heads: slice, queries: slice) -> Tensor:
        """(heads, queries, keys) bf16, uninitialized."""
        return scratch(f"scores {which}", _length(heads), _length(queries), queries.stop, like=self.q)

    def vectors(self, which: int, heads: slice, positions: slice) -> Tensor:
        """(heads, positions, head_dim) bf16, uninitialized."""
        return scratch(f"vectors {which}", _length(heads), _length(positions), self.head_dim, like=self.q)

    def packed(self, which: int, x: Tensor, heads: slice, positions: slice) -> Tensor:
        """A part of x as contiguous (heads, positions, head_dim). oneDNN would make the same copy, but slowly."""
        if (part := self._view(x, heads, positions)) is None:
            part = self.vectors(which, heads, positions)
            self._copy(_pack, _length(heads), part, x, heads, positions)
        return part

    def unpack(self, packed: Tensor, x: Tensor, heads: slice, positions: slice, divisors: Tensor | None = None) -> None:
        """Write packed vectors to their positions in x, each divided by its divisor if there are any."""
        self._copy(_unpack, _length(heads), packed, x, heads, positions, 0 if divisors is None else divisors)

    def matmul(self, a: Tensor, b: Tensor, out: Tensor, heads: slice, positions: slice) -> None:
        """Write a · b of these heads to their positions in `out`."""
        if (view := self._view(out, heads, positions)) is not None:
            torch.bmm(a, b, out=view)
        else:
            self.unpack(torch.bmm(a, b, out=self.vectors(4, heads, positions)), out, heads, positions)

    def accumulate_matmul(self, which: int, a: Tensor, b: Tensor, out: Tensor, heads: slice, keys: slice) -> None:
        """Sum a · b over all query blocks of these heads in fp32; after the last block, write the sum to `out`."""
        if self.seq <= self.block_q and (view := self._view(out, heads, keys)) is not None:
            torch.bmm(a, b, out=view)  # a single block
            return
        part, head_size = torch.bmm(a, b, out=self.vectors(4, heads, keys)), self.seq * self.head_dim
        total = scratch(f"totals {which}", self.block_heads, head_size, like=self.q, dtype=torch.float32)
        is_first = int(keys.stop == self.seq)
        launch(_accumulate, _length(heads), 1, total, part, head_size, keys.stop * self.head_dim, is_first)
        if keys.stop <= self.block_q:
            self._copy(_unpack_groups, _length(heads) // self.group_size, total, out, heads, slice(0, self.seq))

    def _view(self, x: Tensor, heads: slice, positions: slice) -> Tensor | None:
        """These heads of x as (heads, seq, head_dim), if they are contiguous and all positions are included."""
        if _length(positions) < self.seq or x.shape[1] < self.num_heads or not x.is_contiguous():
            return None
        return x.view(self.total_heads, self.seq, self.head_dim)[heads]

    def _copy(
        self, kernel: ParallelKernel, rows: int, packed: Tensor, x: Tensor, heads: slice, positions: slice,
        *extra: Tensor | int,
    ) -> None:  # fmt: skip
        """Copy between `packed` (heads, positions, head_dim) and x (batch, heads or kv_heads, seq, head_dim)."""
        group_size = self.num_heads // x.shape[1]
        shape = heads.start, positions.start, _length(positions), self.num_heads, group_size, self.head_dim
        launch(kernel, rows, 1, packed, x, *shape, *x.stride()[:3], *extra)


def _length(part: slice) -> int:
    return part.stop - part.start


def _softmax_rows(s: Tensor, logsumexp: Tensor, row_sums: Tensor, head: int, start: int, head_dim: int) -> None:
    """S -> P in place; writes ΣP and lse of each row."""
    heads, queries, keys = s.shape
    lse, sizes = _lse_from(logsumexp, head, start), (queries, keys, start, logsumexp.shape[2])
    launch(_softmax, heads * queries, ROWS_PER_CHUNK, s, lse, row_sums, *sizes, 1 / math.sqrt(head_dim))


def _lse_from(logsumexp: Tensor, head: int, start: int) -> Tensor:
    """`logsumexp`, flat, from query `start` of a head on."""
    return logsumexp.view(-1)[head * logsumexp.shape[2] + start :]


def _softmax_backward_rows(p: Tensor, ds: Tensor, logsumexp: Tensor, head: int, start: int, head_dim: int) -> None:
    """S -> P and dP -> dS, in place."""
    heads, queries, keys = p.shape
    lse, sizes = _lse_from(logsumexp, head, start), (queries, keys, start, logsumexp.shape[2])
    launch(_softmax_backward, heads * queries, ROWS_PER_CHUNK, p, ds, lse, *sizes, 1 / math.sqrt(head_dim))


@ParallelKernel
def _softmax(table):
    scores, lse, row_sums = bf16_ptr(table[ARGS]), fp32_ptr(table[ARGS + 1]), fp32_ptr(table[ARGS + 2])
    queries, keys, start, seq = table[ARGS + 3], table[ARGS + 4], table[ARGS + 5], table[ARGS + 6]
    scale = F(as_fp64(table[ARGS + 7]))
    first = next_chunk(table)
    while first < table[NUM_ROWS]:
        for row in range(first, chunk_end(table, first)):
            begin, query = row * keys, row % queries
            visible = start + query + 1
            highest = ordered_int(scores, begin)
            for i in range(visible):
                highest = max(highest, ordered_int(scores, begin + i))
            row_max, total = from_ordered_int(highest) * scale, F(0.0)
            for i in range(visible):
                p = exp(load(scores, begin + i) * scale - row_max)
                total += p
                store(scores, begin + i, p)
            for i in range(visible, keys):
                scores[begin + i] = 0
            row_sums[row] = total
            lse[row // queries * seq + query] = row_max + log(total)
        first = next_chunk(table)


@helper
def _offset(table, head):
    """The offset in x of the first vector of this head; the arguments are those of `_Blocks._copy`."""
    num_heads, group_size = table[ARGS + 5], table[ARGS + 6]
    batch, x_head = head // num_heads, head % num_heads // group_size
    return batch * table[ARGS + 8] + x_head * table[ARGS + 9] + table[ARGS + 3] * table[ARGS + 10]


@ParallelKernel
def _pack(table):
    packed, x, first = bf16_ptr(table[ARGS]), bf16_ptr(table[ARGS + 1]), table[ARGS + 2]
    positions, head_dim, stride = table[ARGS + 4], table[ARGS + 7], table[ARGS + 10]
    head = next_chunk(table)
    while head < table[NUM_ROWS]:
        read, write = _offset(table, first + head), head * positions * head_dim
        if stride == head_dim:
            copy_bf16(packed, write, x, read, positions * head_dim)
        else:
            for _ in range(positions):
                copy_bf16(packed, write, x, read, head_dim)
                read, write = read + stride, write + head_dim
        head = next_chunk(table)


@ParallelKernel
def _unpack(table):
    packed, x, first = bf16_ptr(table[ARGS]), bf16_ptr(table[ARGS + 1]), table[ARGS + 2]
    positions, head_dim, stride = table[ARGS + 4], table[ARGS + 7], table[ARGS + 10]
    divisors = fp32_ptr(table[ARGS + 11])
    head = next_chunk(table)
    while head < table[NUM_ROWS]:
        write, read = _offset(table, first + head), head * positions * head_dim
        for position in range(positions):
            factor = F(1.0)
            if table[ARGS + 11]:
                factor = F(1.0) / divisors[head * positions + position]
            for i in range(head_dim):
                store(x, write + i, load(packed, read + i) * factor)
            read, write = read + head_dim, write + stride
        head = next_chunk(table)


@ParallelKernel
def _unpack_groups(table):
    packed, x, first = fp32_ptr(table[ARGS]), bf16_ptr(table[ARGS + 1]), table[ARGS + 2]
    positions, group_size = table[ARGS + 4], table[ARGS + 6]
    head_dim, stride = table[ARGS + 7], table[ARGS + 10]
    group = next_chunk(table)
    while group < table[NUM_ROWS]:
        write, read = _offset(table, first + group * group_size), group * group_size * positions * head_dim
        for _ in range(positions):
            for i in range(head_dim):
                total = packed[read + i]
                for head in range(1, group_size):
                    total += packed[read + head * positions * head_dim + i]
                store(x, write + i, total)
            read, write = read + head_dim, write + stride
        group = next_chunk(table)


@ParallelKernel
def _accumulate(table):
    totals, part, is_first = fp32_ptr(table[ARGS]), bf16_ptr(table[ARGS + 1]), table[ARGS + 4]
    total_size, part_size = table[ARGS + 2], table[ARGS + 3]
    head = next_chunk(table)
    while head < table[NUM_ROWS]:
        write, read = head * total_size, head * part_size
        if is_first:
            for i in range(part_size):
                totals[write + i] = load(part, read + i)
        else:
            for i in range(part_size):
                totals[write + i] += load(part, read + i)
        head = next_chunk(table)


@ParallelKernel
def _softmax_backward(table):
    p_rows, ds_rows, lse = bf16_ptr(table[ARGS]), bf16_ptr(table[ARGS + 1]), fp32_ptr(table[ARGS + 2])
    queries, keys, start, seq = table[ARGS + 3], table[ARGS + 4], table[ARGS + 5], table[ARGS + 6]
    scale = F(as_fp64(table[ARGS + 7]))
    first = next_chunk(table)
    while first < table[NUM_ROWS]:
        for row in range(first, chunk_end(table, first)):
            begin, query = row * keys, row % queries
            visible, row_lse, delta = start + query + 1, lse[row // queries * seq + query], F(0.0)
            for i in range(visible):
                p = exp(load(p_rows, begin + i) * scale - row_lse)
                delta += p * load(ds_rows, begin + i)
                store(p_rows, begin + i, p)
            for i in range(visible):
                store(ds_rows, begin + i, load(p_rows, begin + i) * (load(ds_rows, begin + i) - delta) * scale)
            for i in range(visible, keys):
                p_rows[begin + i] = 0
                ds_rows[begin + i] = 0
        first = next_chunk(table)
