"""Rotary positions in one pass: turn the pairs of each head, and lay the heads out as attention reads them.

Element i of the first half of a head and element i of the second are turned by the angle of their position:

    (a, b) -> (a · cos - b · sin, b · cos + a · sin)

The gradient is turned back: the same with -sin. Read and written are tensors (batch, heads, seq, head_dim) of any
strides, so that the heads which a linear layer leaves side by side come out one after the other without another copy,
and gradients go back the same way.
"""

import threading
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llamita.jit.machine_code import Body
from llamita.jit.numbers import F, bf16s, copy_bf16s, fp32s, helper, int64s, load, store, take_rows
from llamita.jit.pool import FIRST_ARGUMENT, ROWS
from llamita.ops.cpu.launch import require_within, run

_remembered = threading.local()


def rotate(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
    """x (batch, heads, seq, head_dim) bf16, head_dim neighbouring in memory -> x turned, contiguous.

    cos, sin (max_seq_len, head_dim / 2) fp32; positions (seq,) or (batch, seq) int64, of which negative ones count from
    the end of the table, as -1 of padding does. Raises `IndexError` for a position outside of it.
    """
    x = x if x.stride(-1) == 1 else x.contiguous()
    places = rows_of_table(positions, len(cos), x.shape[0], x.shape[2])
    return _Rotation.apply(x, cos, sin, places)  # type: ignore[return-value]


def rows_of_table(positions: Tensor, rows: int, batch: int, seq: int) -> Tensor:
    """positions as of `rotate` -> which of `rows` rows of the table they mean: (seq,) or (batch, seq), contiguous.

    Layers are given the same positions one after the other, so the last answer is remembered.
    """
    asked = rows, batch, seq, 0 if positions.is_inference() else positions._version
    last: dict[str, Any] = _remembered.__dict__
    if not last or last["of"]() is not positions or last["asked"] != asked:
        require_within(positions, -rows, rows - 1, "a position")
        places = (positions % rows).long().expand(*(batch,) * (positions.dim() - 1), seq).contiguous()
        last.update(of=weakref.ref(positions), asked=asked, places=places)
    return last["places"]


@dataclass(frozen=True)
class Angles:
    """The tables (max_seq_len, head_dim / 2), and for each token its row: places (seq,) or (batch, seq)."""

    cos: Tensor
    sin: Tensor
    places: Tensor


@dataclass(frozen=True)
class Heads:
    """How one product makes all heads: those of queries, of keys, of values side by side for each token."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    angles: Angles | None = None
    """By which queries and keys are turned."""

    def apart(self, flat: Tensor, batch: int, seq: int) -> tuple[Tensor, Tensor, Tensor]:
        """Memory for all heads, of any shape -> q, k, v (batch, their heads, seq, head_dim), each contiguous."""
        counts = self.num_heads, self.num_kv_heads, self.num_kv_heads
        parts = flat.view(-1).split([batch * count * seq * self.head_dim for count in counts])
        q, k, v = (part.view(batch, count, seq, self.head_dim) for part, count in zip(parts, counts, strict=True))
        return q, k, v

    def separate(self, joined: Tensor, flat: Tensor, batch: int) -> None:
        """joined (tokens, width) bf16 -> flat, which is as large: as `apart` reads it, queries and keys turned."""
        self._regroup(joined, flat, batch, back=False)

    def join(self, flat: Tensor, joined: Tensor, batch: int) -> None:
        """The opposite of `separate`, and its gradient."""
        self._regroup(joined, flat, batch, back=True)

    def _regroup(self, joined: Tensor, flat: Tensor, batch: int, back: bool) -> None:
        seq, total = len(joined) // batch, self.num_heads + 2 * self.num_kv_heads
        sizes = batch, seq, self.num_heads, self.num_kv_heads, self.head_dim
        if (angles := self.angles) is None:
            tables = 0, 0, 0, 0
        else:
            tables = angles.cos, angles.sin, angles.places, seq if angles.places.dim() == 2 else 0
        run(_regroup, batch * total, 1, joined, flat, *sizes, int(back), int(angles is not None), *tables)


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin, positions)
        out = torch.empty(x.shape, dtype=x.dtype)
        _turn(x, out, cos, sin, positions, 1)
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin, positions = ctx.saved_tensors
        (grad,) = grad_outputs
        batch, heads, seq, head_dim = grad.shape
        back = torch.empty(batch, seq, heads, head_dim, dtype=grad.dtype).transpose(1, 2)  # as the linear layer had it
        _turn(grad if grad.stride(-1) == 1 else grad.contiguous(), back, cos, sin, positions, -1)
        return back, None, None, None


def _turn(x: Tensor, out: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, sign: int) -> None:
    batch, heads, seq, head_dim = x.shape
    a_row_of_positions = seq if positions.dim() == 2 else 0
    strides = *x.stride()[:3], *out.stride()[:3]
    sizes = a_row_of_positions, heads, seq, head_dim, sign
    run(_rotate, batch * heads, 1, x, out, cos, sin, positions, *sizes, *strides)


@helper
def _turn_pairs(source, read, target, write, half, cos, sin, angle, sign):
    """Turn one head of one token."""
    for i in range(half):
        one, other = load(source, read + i), load(source, read + half + i)
        c, s = cos[angle + i], sin[angle + i] * sign
        store(target, write + i, one * c - other * s)
        store(target, write + half + i, other * c + one * s)


@Body
def _rotate(table):
    a = FIRST_ARGUMENT
    x, out, cos, sin = bf16s(table[a]), bf16s(table[a + 1]), fp32s(table[a + 2]), fp32s(table[a + 3])
    positions, a_row_of_positions = int64s(table[a + 4]), table[a + 5]
    heads, seq, half, sign = table[a + 6], table[a + 7], table[a + 8] // 2, F(table[a + 9])
    row = take_rows(table)
    while row < table[ROWS]:
        batch, head = row // heads, row % heads
        read = batch * table[a + 10] + head * table[a + 11]
        write = batch * table[a + 13] + head * table[a + 14]
        for place in range(seq):
            angle = positions[batch * a_row_of_positions + place] * half
            _turn_pairs(x, read, out, write, half, cos, sin, angle, sign)
            read, write = read + table[a + 12], write + table[a + 15]
        row = take_rows(table)


@Body
def _regroup(table):
    a = FIRST_ARGUMENT
    joined, flat = bf16s(table[a]), bf16s(table[a + 1])
    batches, seq, own, shared, size = table[a + 2], table[a + 3], table[a + 4], table[a + 5], table[a + 6]
    back, turns = table[a + 7], table[a + 8]
    cos, sin, places, a_row_of_places = fp32s(table[a + 9]), fp32s(table[a + 10]), int64s(table[a + 11]), table[a + 12]
    heads, sign = own + 2 * shared, F(1 - 2 * back)
    row = take_rows(table)
    while row < table[ROWS]:
        batch, head = row // heads, row % heads
        side = batch * seq * heads * size + head * size
        if head < own:
            apart = (batch * own + head) * seq * size
        elif head < own + shared:
            apart = (batches * own + batch * shared + head - own) * seq * size
        else:
            apart = (batches * (own + shared) + batch * shared + head - own - shared) * seq * size
        source, read, read_step, target, write, write_step = joined, side, heads * size, flat, apart, size
        if back:
            source, read, read_step, target, write, write_step = flat, apart, size, joined, side, heads * size
        for place in range(seq):
            if turns and head < own + shared:
                angle = places[batch * a_row_of_places + place] * (size // 2)
                _turn_pairs(source, read, target, write, size // 2, cos, sin, angle, sign)
            else:
                copy_bf16s(target, write, source, read, size)
            read, write = read + read_step, write + write_step
        row = take_rows(table)
