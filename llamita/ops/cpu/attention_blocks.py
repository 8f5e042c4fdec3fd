"""Causal attention, a block of queries at a time, as matrix products of torch.

A row of scores is short enough to need no running softmax. With m the largest of s · S, and s = 1 / sqrt(head_dim):

    S = Q Kᵀ,   P = exp(s · S - m),   O = P V / ΣP,   l = m + ln ΣP

    P = exp(s · S - l),   dV = Pᵀ dO,   dP = dO Vᵀ,   dS = s · P ∘ (dP - Σ P ∘ dP),   dQ = dS K,   dK = dSᵀ Q

Products are bf16 with sums in fp32, softmax is fp32, and gradients of keys and values are summed in fp32.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from llamita.jit.machine_code import Body
from llamita.jit.numbers import (
    F,
    bf16s,
    copy_bf16s,
    end_of,
    exp,
    fp32s,
    fp64,
    helper,
    in_order,
    load,
    log,
    order,
    store,
    take_rows,
)
from llamita.jit.pool import FIRST_ARGUMENT, ROWS
from llamita.ops.cpu.launch import has_no_values, run
from llamita.ops.cpu.scratch import scratch

QUERIES = 128  # in a block
SCORES = 1 << 21  # in a block, over all its heads: 4 MB of bf16
ROWS_PER_CHUNK = 16  # rows of scores


def forward(q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor) -> None:
    """Fill `out`, of the shape of q, and `logsumexp` (batch, heads, seq) fp32."""
    blocks = _Blocks(q, k)
    for group, own, keys in blocks.ranges():
        scores = blocks.scores(0, group, own)
        torch.bmm(blocks.packed(0, q, group, own), blocks.packed(1, k, group, keys).mT, out=scores)
        _softmax_rows(scores, logsumexp, blocks.sums, group.start, own.start, q.shape[3])
        results = torch.bmm(scores, blocks.packed(1, v, group, keys), out=blocks.vectors(0, group, own))
        blocks.unpack(results, out, group, own, blocks.sums)


def backward(
    inputs: tuple[Tensor, Tensor, Tensor],
    logsumexp: Tensor,
    grad: Tensor,
    grads: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Fill `grads`, of q, k and v, from `grad`, that of the output."""
    (q, k, v), (d_q, d_k, d_v) = inputs, grads
    blocks = _Blocks(q, k)
    for group, own, keys in blocks.ranges():
        own_q, own_grad = blocks.packed(0, q, group, own), blocks.packed(1, grad, group, own)
        own_k, own_v = blocks.packed(2, k, group, keys), blocks.packed(3, v, group, keys)
        probabilities = torch.bmm(own_q, own_k.mT, out=blocks.scores(0, group, own))
        d_scores = torch.bmm(own_grad, own_v.mT, out=blocks.scores(1, group, own))
        _backward_rows(probabilities, d_scores, logsumexp, group.start, own.start, q.shape[3])
        blocks.multiply(d_scores, own_k, d_q, group, own)
        blocks.add_product(0, probabilities.mT, own_grad, d_v, group, keys)
        blocks.add_product(1, d_scores.mT, own_q, d_k, group, keys)


class _Blocks:
    """The scratch buffers that the blocks of a call use one after another. A head is a query head of any sequence.

    Consecutive query heads share a key and value head: each gets a copy of it, and their gradients of it are summed.
    """

    def __init__(self, q: Tensor, k: Tensor):
        self.queries = max(1, min(QUERIES, q.shape[2]))
        batch, self.num_heads, self.seq, self.head_dim = q.shape
        self.q, self.heads, self.groups = q, batch * self.num_heads, self.num_heads // k.shape[1]
        fitting = min(self.heads, SCORES // max(1, self.queries * self.seq))
        self.heads_at_once = max(1, fitting // self.groups) * self.groups  # whole groups
        self.sums = scratch("sums", self.heads_at_once * self.queries, like=q, dtype=torch.float32)

    def ranges(self) -> Iterator[tuple[slice, slice, slice]]:
        """(heads, queries, keys that these see) of each block; those with the most keys first.

        Of FakeTensors only the first block: it shows the memory that all take.
        """
        for head in range(0, self.heads, self.heads_at_once):
            for start in reversed(range(0, self.seq, self.queries)):
                stop = min(start + self.queries, self.seq)
                yield slice(head, min(head + self.heads_at_once, self.heads)), slice(start, stop), slice(0, stop)
                if has_no_values(self.q):
                    return

    def scores(self, which: int, group: slice, queries: slice) -> Tensor:
        """(heads, queries, keys) bf16, uninitialized."""
        return scratch(f"scores {which}", _length(group), _length(queries), queries.stop, like=self.q)

    def vectors(self, which: int, group: slice, positions: slice) -> Tensor:
        """(heads, positions, head_dim) bf16, uninitialized."""
        return scratch(f"vectors {which}", _length(group), _length(positions), self.head_dim, like=self.q)

    def packed(self, which: int, x: Tensor, group: slice, positions: slice) -> Tensor:
        """(heads, positions, head_dim): a contiguous part of x; oneDNN would make that copy otherwise, but slowly."""
        if (part := self._whole(x, group, positions)) is None:
            part = self.vectors(which, group, positions)
            self._copy(_pack, _length(group), part, x, group, positions)
        return part

    def unpack(self, packed: Tensor, x: Tensor, group: slice, positions: slice, divisors: Tensor | None = None) -> None:
        """Write vectors of query heads to their positions in x, each divided by its divisor where there are any."""
        self._copy(_unpack_bf16, _length(group), packed, x, group, positions, 0 if divisors is None else divisors)

    def multiply(self, a: Tensor, b: Tensor, result: Tensor, group: slice, positions: slice) -> None:
        """Write the products of query heads to their positions in `result`."""
        if (whole := self._whole(result, group, positions)) is not None:
            torch.bmm(a, b, out=whole)
        else:
            self.unpack(torch.bmm(a, b, out=self.vectors(4, group, positions)), result, group, positions)

    def add_product(self, which: int, a: Tensor, b: Tensor, result: Tensor, group: slice, keys: slice) -> None:
        """Sum the products of all blocks of a group of heads in fp32, and write the sums to `result` after the last."""
        if self.seq <= self.queries and (whole := self._whole(result, group, keys)) is not None:
            torch.bmm(a, b, out=whole)  # a single block
            return
        part, a_head = torch.bmm(a, b, out=self.vectors(4, group, keys)), self.seq * self.head_dim
        total = scratch(f"totals {which}", self.heads_at_once, a_head, like=self.q, dtype=torch.float32)
        run(_add, _length(group), 1, total, part, a_head, keys.stop * self.head_dim, int(keys.stop == self.seq))
        if keys.stop <= self.queries:
            self._copy(_unpack_groups, _length(group) // self.groups, total, result, group, slice(0, self.seq))

    def _whole(self, x: Tensor, group: slice, positions: slice) -> Tensor | None:
        """These heads of x, (heads, seq, head_dim), where they are contiguous and all positions are wanted."""
        if _length(positions) < self.seq or x.shape[1] < self.num_heads or not x.is_contiguous():
            return None
        return x.view(self.heads, self.seq, self.head_dim)[group]

    def _copy(
        self, body: Body, rows: int, packed: Tensor, x: Tensor, group: slice, positions: slice, *more: Tensor | int
    ) -> None:
        """Copy vectors between `packed` (heads, positions, head_dim) and x (batch, heads, seq, head_dim), which may
        have fewer heads."""
        groups = self.num_heads // x.shape[1]
        where = group.start, positions.start, _length(positions), self.num_heads, groups, self.head_dim, *x.stride()[:3]
        run(body, rows, 1, packed, x, *where, *more)


def _length(part: slice) -> int:
    return part.stop - part.start


def _softmax_rows(scores: Tensor, logsumexp: Tensor, sums: Tensor, head: int, start: int, head_dim: int) -> None:
    """S -> P in place, ΣP and l of each row."""
    heads, queries, keys = scores.shape
    own, sizes = _of_head(logsumexp, head, start), (queries, keys, start, logsumexp.shape[2])
    run(_softmax, heads * queries, ROWS_PER_CHUNK, scores, own, sums, *sizes, 1 / math.sqrt(head_dim))


def _of_head(logsumexp: Tensor, head: int, start: int) -> Tensor:
    """The part that begins at query `start` of a head."""
    return logsumexp.view(-1)[head * logsumexp.shape[2] + start :]


def _backward_rows(
    probabilities: Tensor, d_scores: Tensor, logsumexp: Tensor, head: int, start: int, head_dim: int
) -> None:
    """S -> P and dP -> dS, each in place."""
    heads, queries, keys = probabilities.shape
    own, sizes = _of_head(logsumexp, head, start), (queries, keys, start, logsumexp.shape[2])
    run(_d_scores, heads * queries, ROWS_PER_CHUNK, probabilities, d_scores, own, *sizes, 1 / math.sqrt(head_dim))


@Body
def _softmax(table):
    a = FIRST_ARGUMENT
    scores, logsumexp, sums = bf16s(table[a]), fp32s(table[a + 1]), fp32s(table[a + 2])
    queries, keys, start, a_head = table[a + 3], table[a + 4], table[a + 5], table[a + 6]
    scale = F(fp64(table[a + 7]))
    first = take_rows(table)
    while first < table[ROWS]:
        for row in range(first, end_of(table, first)):
            begin, query = row * keys, row % queries
            seen = start + query + 1
            highest = order(scores, begin)
            for i in range(seen):
                highest = max(highest, order(scores, begin + i))
            largest, total = in_order(highest) * scale, F(0.0)
            for i in range(seen):
                p = exp(load(scores, begin + i) * scale - largest)
                total += p
                store(scores, begin + i, p)
            for i in range(seen, keys):
                scores[begin + i] = 0
            sums[row] = total
            logsumexp[row // queries * a_head + query] = largest + log(total)
        first = take_rows(table)


@helper
def _begin(table, head):
    """The offset in x of the first vector of this head."""
    a = FIRST_ARGUMENT + 2
    num_heads, groups = table[a + 3], table[a + 4]
    batch, own = head // num_heads, head % num_heads // groups
    return batch * table[a + 6] + own * table[a + 7] + table[a + 1] * table[a + 8]


@Body
def _pack(table):
    packed, x, first = bf16s(table[FIRST_ARGUMENT]), bf16s(table[FIRST_ARGUMENT + 1]), table[FIRST_ARGUMENT + 2]
    positions, size, step = table[FIRST_ARGUMENT + 4], table[FIRST_ARGUMENT + 7], table[FIRST_ARGUMENT + 10]
    head = take_rows(table)
    while head < table[ROWS]:
        read, write = _begin(table, first + head), head * positions * size
        if step == size:
            copy_bf16s(packed, write, x, read, positions * size)
        else:
            for _ in range(positions):
                copy_bf16s(packed, write, x, read, size)
                read, write = read + step, write + size
        head = take_rows(table)


@Body
def _unpack_bf16(table):
    packed, x, first = bf16s(table[FIRST_ARGUMENT]), bf16s(table[FIRST_ARGUMENT + 1]), table[FIRST_ARGUMENT + 2]
    positions, size, step = table[FIRST_ARGUMENT + 4], table[FIRST_ARGUMENT + 7], table[FIRST_ARGUMENT + 10]
    divisors = fp32s(table[FIRST_ARGUMENT + 11])
    head = take_rows(table)
    while head < table[ROWS]:
        write, read = _begin(table, first + head), head * positions * size
        for position in range(positions):
            factor = F(1.0)
            if table[FIRST_ARGUMENT + 11]:
                factor = F(1.0) / divisors[head * positions + position]
            for i in range(size):
                store(x, write + i, load(packed, read + i) * factor)
            read, write = read + size, write + step
        head = take_rows(table)


@Body
def _unpack_groups(table):
    packed, x, first = fp32s(table[FIRST_ARGUMENT]), bf16s(table[FIRST_ARGUMENT + 1]), table[FIRST_ARGUMENT + 2]
    positions, groups = table[FIRST_ARGUMENT + 4], table[FIRST_ARGUMENT + 6]
    size, step = table[FIRST_ARGUMENT + 7], table[FIRST_ARGUMENT + 10]
    group = take_rows(table)
    while group < table[ROWS]:
        write, read = _begin(table, first + group * groups), group * groups * positions * size
        for _ in range(positions):
            for i in range(size):
                total = packed[read + i]
                for b in range(1, groups):
                    total += packed[read + b * positions * size + i]
                store(x, write + i, total)
            read, write = read + size, write + step
        group = take_rows(table)


@Body
def _add(table):
    totals, part, first_part = fp32s(table[FIRST_ARGUMENT]), bf16s(table[FIRST_ARGUMENT + 1]), table[FIRST_ARGUMENT + 4]
    a_total, a_part = table[FIRST_ARGUMENT + 2], table[FIRST_ARGUMENT + 3]
    head = take_rows(table)
    while head < table[ROWS]:
        write, read = head * a_total, head * a_part
        if first_part:
            for i in range(a_part):
                totals[write + i] = load(part, read + i)
        else:
            for i in range(a_part):
                totals[write + i] += load(part, read + i)
        head = take_rows(table)


@Body
def _d_scores(table):
    a = FIRST_ARGUMENT
    probabilities, d_scores, logsumexp = bf16s(table[a]), bf16s(table[a + 1]), fp32s(table[a + 2])
    queries, keys, start, a_head = table[a + 3], table[a + 4], table[a + 5], table[a + 6]
    scale = F(fp64(table[a + 7]))
    first = take_rows(table)
    while first < table[ROWS]:
        for row in range(first, end_of(table, first)):
            begin, query = row * keys, row % queries
            seen, log_sum, delta = start + query + 1, logsumexp[row // queries * a_head + query], F(0.0)
            for i in range(seen):
                p = exp(load(probabilities, begin + i) * scale - log_sum)
                delta += p * load(d_scores, begin + i)
                store(probabilities, begin + i, p)
            for i in range(seen):
                store(d_scores, begin + i, load(probabilities, begin + i) * (load(d_scores, begin + i) - delta) * scale)
            for i in range(seen, keys):
                probabilities[begin + i] = 0
                d_scores[begin + i] = 0
        first = take_rows(table)
