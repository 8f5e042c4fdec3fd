"""Causal attention, a block of queries at a time, as matrix products of torch.

A row of scores is short enough to need no running softmax. With m the largest of s · S, and s = 1 / sqrt(head_dim):

    S = Q Kᵀ,   P = exp(s · S - m),   O = P V / ΣP,   l = m + ln ΣP

    P = exp(s · S - l),   dV = Pᵀ dO,   dP = dO Vᵀ,   dS = s · P ∘ (dP - Σ P ∘ dP),   dQ = dS K,   dK = dSᵀ Q

Products are bf16 with sums in fp32, softmax is fp32, and gradients of keys and values are added up in fp32.
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
from llamita.ops.cpu.workspace import scratch

QUERIES = 128  # of a block, where nobody says how many
SIZES = QUERIES, 2 * QUERIES
SCORES = 1 << 21  # of a block, over as many heads as are computed together: 4 MB of bf16
AT_ONCE = 16  # rows of scores


def attend(q: Tensor, k: Tensor, v: Tensor, out: Tensor, logs: Tensor, queries: int) -> None:
    """Fill `out` and `logs`, as `attention.attend` does."""
    room = _Room(q, k, queries or QUERIES)
    for some, own, keys in room.blocks():
        scores = room.scores(0, some, own)
        torch.bmm(room.packed(0, q, some, own), room.packed(1, k, some, keys).mT, out=scores)
        _soften(scores, logs, room.sums, some.start, own.start, q.shape[3])
        mixed = torch.bmm(scores, room.packed(1, v, some, keys), out=room.vectors(0, some, own))
        room.unpack(mixed, out, some, own, room.sums)


def attend_backward(
    inputs: tuple[Tensor, Tensor, Tensor],
    logs: Tensor,
    grad: Tensor,
    grads: tuple[Tensor, Tensor, Tensor],
    queries: int,
) -> None:
    """Fill `grads`, as `attention.attend_backward` does."""
    (q, k, v), (d_q, d_k, d_v) = inputs, grads
    room = _Room(q, k, queries or QUERIES)
    for some, own, keys in room.blocks():
        own_q, own_grad = room.packed(0, q, some, own), room.packed(1, grad, some, own)
        own_k, own_v = room.packed(2, k, some, keys), room.packed(3, v, some, keys)
        chances = torch.bmm(own_q, own_k.mT, out=room.scores(0, some, own))
        slopes = torch.bmm(own_grad, own_v.mT, out=room.scores(1, some, own))
        _descend(chances, slopes, logs, some.start, own.start, q.shape[3])
        room.multiply(slopes, own_k, d_q, some, own)
        room.add_product(0, chances.mT, own_grad, d_v, some, keys)
        room.add_product(1, slopes.mT, own_q, d_k, some, keys)


class _Room:
    """The memory that the blocks of one call use one after the other. A head here is a query head of any sequence.

    Neighbouring query heads share a head of keys and values: each is given a copy of it, and what they make of its
    gradient is added up.
    """

    def __init__(self, q: Tensor, k: Tensor, queries: int):
        self.queries = max(1, min(queries, q.shape[2]))
        batch, self.own_heads, self.seq, self.head_dim = q.shape
        self.q, self.heads, self.groups = q, batch * self.own_heads, self.own_heads // k.shape[1]
        fitting = min(self.heads, SCORES // max(1, self.queries * self.seq))
        self.together = max(1, fitting // self.groups) * self.groups  # no group is torn apart
        self.sums = scratch("sums", self.together * self.queries, like=q, dtype=torch.float32)

    def blocks(self) -> Iterator[tuple[slice, slice, slice]]:
        """(heads, queries, keys that these see) of each block; those with the most keys first.

        Where nothing is computed, since there are no values, the first shows what memory all take.
        """
        for head in range(0, self.heads, self.together):
            for start in reversed(range(0, self.seq, self.queries)):
                stop = min(start + self.queries, self.seq)
                yield slice(head, min(head + self.together, self.heads)), slice(start, stop), slice(0, stop)
                if has_no_values(self.q):
                    return

    def scores(self, which: int, some: slice, queries: slice) -> Tensor:
        """(heads, queries, keys) bf16, without values."""
        return scratch(f"scores {which}", _length(some), _length(queries), queries.stop, like=self.q)

    def vectors(self, which: int, some: slice, places: slice) -> Tensor:
        """(heads, places, head_dim) bf16, without values."""
        return scratch(f"vectors {which}", _length(some), _length(places), self.head_dim, like=self.q)

    def packed(self, which: int, x: Tensor, some: slice, places: slice) -> Tensor:
        """(heads, places, head_dim): a part of x, without gaps: oneDNN would make that copy otherwise, but slowly."""
        if (part := self._whole(x, some, places)) is None:
            part = self.vectors(which, some, places)
            self._copy(_pack, _length(some), part, x, some, places)
        return part

    def unpack(self, packed: Tensor, x: Tensor, some: slice, places: slice, divisors: Tensor | None = None) -> None:
        """Write vectors of query heads to their places in x; divided by a number each, where there are `divisors`."""
        self._copy(_unpack_bf16, _length(some), packed, x, some, places, 0 if divisors is None else divisors)

    def multiply(self, one: Tensor, other: Tensor, result: Tensor, some: slice, places: slice) -> None:
        """Write the products of query heads to their places in `result`."""
        if (whole := self._whole(result, some, places)) is not None:
            torch.bmm(one, other, out=whole)
        else:
            self.unpack(torch.bmm(one, other, out=self.vectors(4, some, places)), result, some, places)

    def add_product(self, which: int, one: Tensor, other: Tensor, result: Tensor, some: slice, keys: slice) -> None:
        """Add up the products of all blocks of some heads in fp32, and write them where they belong after the last."""
        if self.seq <= self.queries and (whole := self._whole(result, some, keys)) is not None:
            torch.bmm(one, other, out=whole)  # there is one block only
            return
        part, a_head = torch.bmm(one, other, out=self.vectors(4, some, keys)), self.seq * self.head_dim
        total = scratch(f"totals {which}", self.together, a_head, like=self.q, dtype=torch.float32)
        run(_add, _length(some), 1, total, part, a_head, keys.stop * self.head_dim, int(keys.stop == self.seq))
        if keys.stop <= self.queries:
            self._copy(_unpack_groups, _length(some) // self.groups, total, result, some, slice(0, self.seq))

    def _whole(self, x: Tensor, some: slice, places: slice) -> Tensor | None:
        """These heads of x, (heads, seq, head_dim), where they lie together and all their places are meant."""
        if _length(places) < self.seq or x.shape[1] < self.own_heads or not x.is_contiguous():
            return None
        return x.view(self.heads, self.seq, self.head_dim)[some]

    def _copy(
        self, body: Body, rows: int, packed: Tensor, x: Tensor, some: slice, places: slice, *more: Tensor | int
    ) -> None:
        """Move vectors between `packed` (heads, places, head_dim) and their places in x (batch, heads, seq, head_dim),
        where x may have fewer heads."""
        groups = self.own_heads // x.shape[1]
        where = some.start, places.start, _length(places), self.own_heads, groups, self.head_dim, *x.stride()[:3]
        run(body, rows, 1, packed, x, *where, *more)


def _length(part: slice) -> int:
    return part.stop - part.start


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
def _begin(table, head):
    """Where in x the first vector of this head lies."""
    a = FIRST_ARGUMENT + 2
    own_heads, groups = table[a + 3], table[a + 4]
    batch, own = head // own_heads, head % own_heads // groups
    return batch * table[a + 6] + own * table[a + 7] + table[a + 1] * table[a + 8]


@Body
def _pack(table):
    packed, x, first = bf16s(table[FIRST_ARGUMENT]), bf16s(table[FIRST_ARGUMENT + 1]), table[FIRST_ARGUMENT + 2]
    places, size, step = table[FIRST_ARGUMENT + 4], table[FIRST_ARGUMENT + 7], table[FIRST_ARGUMENT + 10]
    head = take_rows(table)
    while head < table[ROWS]:
        read, write = _begin(table, first + head), head * places * size
        if step == size:
            copy_bf16s(packed, write, x, read, places * size)
        else:
            for _ in range(places):
                copy_bf16s(packed, write, x, read, size)
                read, write = read + step, write + size
        head = take_rows(table)


@Body
def _unpack_bf16(table):
    packed, x, first = bf16s(table[FIRST_ARGUMENT]), bf16s(table[FIRST_ARGUMENT + 1]), table[FIRST_ARGUMENT + 2]
    places, size, step = table[FIRST_ARGUMENT + 4], table[FIRST_ARGUMENT + 7], table[FIRST_ARGUMENT + 10]
    divisors = fp32s(table[FIRST_ARGUMENT + 11])
    head = take_rows(table)
    while head < table[ROWS]:
        write, read = _begin(table, first + head), head * places * size
        for place in range(places):
            factor = F(1.0)
            if table[FIRST_ARGUMENT + 11]:
                factor = F(1.0) / divisors[head * places + place]
            for i in range(size):
                store(x, write + i, load(packed, read + i) * factor)
            read, write = read + size, write + step
        head = take_rows(table)


@Body
def _unpack_groups(table):
    packed, x, first = fp32s(table[FIRST_ARGUMENT]), bf16s(table[FIRST_ARGUMENT + 1]), table[FIRST_ARGUMENT + 2]
    places, groups = table[FIRST_ARGUMENT + 4], table[FIRST_ARGUMENT + 6]
    size, step = table[FIRST_ARGUMENT + 7], table[FIRST_ARGUMENT + 10]
    group = take_rows(table)
    while group < table[ROWS]:
        write, read = _begin(table, first + group * groups), group * groups * places * size
        for _ in range(places):
            for i in range(size):
                total = packed[read + i]
                for other in range(1, groups):
                    total += packed[read + other * places * size + i]
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
