"""Causal attention, a block of queries at a time, as matrix products in bf16.

A block of queries sees the keys up to its own end, so the half of all scores that causality hides is hardly computed;
the scores of a block are made, used and forgotten while they lie in the processor's cache, so memory grows with the
length of the context, not with its square. The mathematics is that of FlashAttention (Dao et al., 2022), where a row
of scores is short enough to need no running softmax:

    S = Q Kᵀ,   P = exp(s · S - m),   O = P V / ΣP        with s = 1 / sqrt(head_dim), m the largest of s · S

Kept for the backward pass is one number a query, l = m + ln ΣP, out of which P is made again:

    P = exp(s · S - l),   dV = Pᵀ dO,   dP = dO Vᵀ,   dS = s · P ∘ (dP - Σ P ∘ dP),   dQ = dS K,   dK = dSᵀ Q

Products are bf16 with sums in fp32, softmax is fp32, and gradients of keys and values are added up in fp32.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from llamita.kernels.numbers import (
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
from llamita.kernels.workers import FIRST_ARGUMENT, ROWS, Body, has_no_values, run

QUERIES = 128  # of a block
SCORES = 1 << 21  # of a block, over as many heads as are computed together: 4 MB of bf16
AT_ONCE = 16  # rows of scores


def blocked_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q · kᵀ / sqrt(head_dim)) · v under the causal triangle; all bf16.

    q (batch, heads, seq, head_dim); k, v (batch, kv_heads, seq, head_dim), where kv_heads divides heads -> the shape
    of q, laid out such that the heads of one position are neighbours in memory.
    """
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    return _BlockedAttention.apply(q, k, v)  # type: ignore[return-value]


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = _side_by_side(q)
        logs = torch.empty(q.shape[:3])  # l of each query
        room = _Room(q)
        for some, queries, keys in room.blocks():
            scores = room.scores(0, some, queries)
            torch.bmm(room.packed(0, q, some, queries), room.packed(1, k, some, keys).mT, out=scores)
            _soften(scores, logs, room.sums, some.start, queries.start, q.shape[3])
            mixed = torch.bmm(scores, room.packed(1, v, some, keys), out=room.vectors(0, some, queries))
            _unpack(mixed, out, some, queries, room.sums)
        ctx.save_for_backward(q, k, v, logs)
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, logs = ctx.saved_tensors
        grad = grad_outputs[0] if grad_outputs[0].stride(-1) == 1 else grad_outputs[0].contiguous()
        d_q, d_k, d_v = _side_by_side(q), _side_by_side(k), _side_by_side(v)
        room = _Room(q)
        for some, queries, keys in room.blocks():
            own_q, own_grad = room.packed(0, q, some, queries), room.packed(1, grad, some, queries)
            own_k, own_v = room.packed(2, k, some, keys), room.packed(3, v, some, keys)
            chances = torch.bmm(own_q, own_k.mT, out=room.scores(0, some, queries))
            slopes = torch.bmm(own_grad, own_v.mT, out=room.scores(1, some, queries))
            _descend(chances, slopes, logs, some.start, queries.start, q.shape[3])
            room.add_up(0, torch.bmm(chances.mT, own_grad, out=own_v), d_v, some, keys)
            part = torch.bmm(slopes, own_k, out=room.vectors(1, some, queries))
            _unpack(part, d_q, some, queries)
            room.add_up(1, torch.bmm(slopes.mT, own_q, out=own_k), d_k, some, keys)
        return d_q, d_k, d_v


def _side_by_side(x: Tensor) -> Tensor:
    """An empty tensor of the shape (batch, heads, seq, head_dim) in which the heads of a position are neighbours."""
    batch, heads, seq, head_dim = x.shape
    return torch.empty(batch, seq, heads, head_dim, dtype=x.dtype).transpose(1, 2)


class _Room:
    """The memory that the blocks of one call use one after the other. A head here is one of any sequence."""

    def __init__(self, q: Tensor):
        batch, heads, self.seq, self.head_dim = q.shape
        self.heads = batch * heads
        self.together = max(1, min(self.heads, SCORES // max(1, QUERIES * self.seq)))
        self.sums = torch.empty(self.together * QUERIES)
        self.totals = [torch.empty(self.together, self.seq, self.head_dim) for _ in range(2)]
        self.only_shapes = has_no_values(q)
        self._buffers: dict[Any, Tensor] = {}

    def blocks(self) -> Iterator[tuple[slice, slice, slice]]:
        """(heads, queries, keys that these see) of each block; those with the most keys first.

        Where nothing is computed, since there are no values, the first shows what memory all take.
        """
        for head in range(0, self.heads, self.together):
            for start in reversed(range(0, self.seq, QUERIES)):
                stop = min(start + QUERIES, self.seq)
                yield slice(head, min(head + self.together, self.heads)), slice(start, stop), slice(0, stop)
                if self.only_shapes:
                    return

    def scores(self, which: int, some: slice, queries: slice) -> Tensor:
        """(heads, queries, keys) bf16, without values."""
        return self._view(("scores", which), _length(some), _length(queries), queries.stop)

    def vectors(self, which: int, some: slice, places: slice) -> Tensor:
        """(heads, places, head_dim) bf16, without values."""
        return self._view(("vectors", which), _length(some), _length(places), self.head_dim)

    def packed(self, which: int, x: Tensor, some: slice, places: slice) -> Tensor:
        """(heads, places, head_dim): a part of x, without gaps: oneDNN would make that copy otherwise, but slowly."""
        part = self.vectors(which, some, places)
        _copy(_pack, part, x, some, places)
        return part

    def add_up(self, which: int, part: Tensor, result: Tensor, some: slice, keys: slice) -> None:
        """Add up the gradients of all blocks of some heads in fp32, and write them where they belong after the last."""
        total, a_head = self.totals[which], self.seq * self.head_dim
        sizes = a_head, keys.stop * self.head_dim
        run(_add, _length(some), 1, total, part, *sizes, int(keys.stop == self.seq))
        if keys.stop <= QUERIES:
            _copy(_unpack_fp32, total, result, some, slice(0, self.seq))

    def _view(self, which: Any, *shape: int) -> Tensor:
        size = math.prod(shape)
        if which not in self._buffers or len(self._buffers[which]) < size:
            self._buffers[which] = torch.empty(size, dtype=torch.bfloat16)
        return self._buffers[which][:size].view(shape)


def _length(part: slice) -> int:
    return part.stop - part.start


def _copy(body: Body, packed: Tensor, x: Tensor, some: slice, places: slice, *more: Tensor | int) -> None:
    """Move vectors between `packed` (heads, places, head_dim) and their places in x (batch, heads, seq, head_dim)."""
    _, heads, _, head_dim = x.shape
    where = some.start, places.start, _length(places), heads, head_dim, *x.stride()[:3]
    run(body, _length(some), 1, packed, x, *where, *more)


def _unpack(packed: Tensor, x: Tensor, some: slice, places: slice, divisors: Tensor | None = None) -> None:
    """Write vectors to their places in x; divided by a number each, where there are `divisors`."""
    _copy(_unpack_bf16, packed, x, some, places, 0 if divisors is None else divisors)


def _soften(scores: Tensor, logs: Tensor, sums: Tensor, head: int, start: int, head_dim: int) -> None:
    """S -> P in its place, ΣP and l of each row."""
    heads, queries, keys = scores.shape
    own, sizes = _of_head(logs, head, start), (queries, keys, start, logs.shape[2])
    run(_softmax, heads * queries, AT_ONCE, scores, own, sums, *sizes, 1 / math.sqrt(head_dim))


def _of_head(logs: Tensor, head: int, start: int) -> Tensor:
    """What belongs to the queries of a head from `start` on, and all that lies behind."""
    return logs.view(-1)[head * logs.shape[2] + start :]


def _descend(chances: Tensor, slopes: Tensor, logs: Tensor, head: int, start: int, head_dim: int) -> None:
    """S -> P and dP -> dS, each in its place."""
    heads, queries, keys = chances.shape
    own, sizes = _of_head(logs, head, start), (queries, keys, start, logs.shape[2])
    run(_slopes, heads * queries, AT_ONCE, chances, slopes, own, *sizes, 1 / math.sqrt(head_dim))


@Body
def _softmax(table):
    a = FIRST_ARGUMENT
    scores, logs, sums = bf16s(table[a]), fp32s(table[a + 1]), fp32s(table[a + 2])
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
            logs[row // queries * a_head + query] = largest + log(total)
        first = take_rows(table)


@helper
def _begin(table, row):
    """Where in x the first vector of this head lies."""
    a = FIRST_ARGUMENT + 2
    head, place = table[a] + row, table[a + 1]
    return head // table[a + 3] * table[a + 5] + head % table[a + 3] * table[a + 6] + place * table[a + 7]


@Body
def _pack(table):
    packed, x = bf16s(table[FIRST_ARGUMENT]), bf16s(table[FIRST_ARGUMENT + 1])
    places, size, step = table[FIRST_ARGUMENT + 4], table[FIRST_ARGUMENT + 6], table[FIRST_ARGUMENT + 9]
    head = take_rows(table)
    while head < table[ROWS]:
        read, write = _begin(table, head), head * places * size
        if step == size:
            copy_bf16s(packed, write, x, read, places * size)
        else:
            for _ in range(places):
                copy_bf16s(packed, write, x, read, size)
                read, write = read + step, write + size
        head = take_rows(table)


@Body
def _unpack_bf16(table):
    packed, x, divisors = (
        bf16s(table[FIRST_ARGUMENT]),
        bf16s(table[FIRST_ARGUMENT + 1]),
        fp32s(table[FIRST_ARGUMENT + 10]),
    )
    places, size, step = table[FIRST_ARGUMENT + 4], table[FIRST_ARGUMENT + 6], table[FIRST_ARGUMENT + 9]
    head = take_rows(table)
    while head < table[ROWS]:
        write, read = _begin(table, head), head * places * size
        for place in range(places):
            factor = F(1.0)
            if table[FIRST_ARGUMENT + 10]:
                factor = F(1.0) / divisors[head * places + place]
            for i in range(size):
                store(x, write + i, load(packed, read + i) * factor)
            read, write = read + size, write + step
        head = take_rows(table)


@Body
def _unpack_fp32(table):
    packed, x = fp32s(table[FIRST_ARGUMENT]), bf16s(table[FIRST_ARGUMENT + 1])
    places, size, step = table[FIRST_ARGUMENT + 4], table[FIRST_ARGUMENT + 6], table[FIRST_ARGUMENT + 9]
    head = take_rows(table)
    while head < table[ROWS]:
        write, read = _begin(table, head), head * places * size
        for _ in range(places):
            for i in range(size):
                store(x, write + i, packed[read + i])
            read, write = read + size, write + step
        head = take_rows(table)


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
def _slopes(table):
    a = FIRST_ARGUMENT
    chances, slopes, logs = bf16s(table[a]), bf16s(table[a + 1]), fp32s(table[a + 2])
    queries, keys, start, a_head = table[a + 3], table[a + 4], table[a + 5], table[a + 6]
    scale = F(fp64(table[a + 7]))
    first = take_rows(table)
    while first < table[ROWS]:
        for row in range(first, end_of(table, first)):
            begin, query = row * keys, row % queries
            seen, log_sum, mean = start + query + 1, logs[row // queries * a_head + query], F(0.0)
            for i in range(seen):
                p = exp(load(chances, begin + i) * scale - log_sum)
                mean += p * load(slopes, begin + i)
                store(chances, begin + i, p)
            for i in range(seen):
                store(slopes, begin + i, load(chances, begin + i) * (load(slopes, begin + i) - mean) * scale)
            for i in range(seen, keys):
                chances[begin + i] = 0
                slopes[begin + i] = 0
        first = take_rows(table)
