"""Rotary positions in one pass: turn the pairs of each head, and lay the heads out as attention reads them.

Element i of the first half of a head and element i of the second are turned by the angle of their position:

    (a, b) -> (a · cos - b · sin, b · cos + a · sin)

The gradient is turned back: the same with -sin. Read and written are tensors (batch, heads, seq, head_dim) of any
strides, so that the heads which a linear layer leaves side by side come out one after the other without another copy,
and gradients go back the same way.
"""

from typing import Any

import torch
from torch import Tensor

from llamita.kernels.numbers import bf16s, fp32s, int64s, load, store, take_rows
from llamita.kernels.workers import FIRST_ARGUMENT, ROWS, Body, require_within, run


def rotate(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
    """x (batch, heads, seq, head_dim) bf16, head_dim neighbouring in memory -> x turned, contiguous.

    cos, sin (max_seq_len, head_dim / 2) fp32; positions (seq,) or (batch, seq) int64, of which negative ones count from
    the end of the table, as -1 of padding does. Raises `IndexError` for a position outside of it.
    """
    x = x if x.stride(-1) == 1 else x.contiguous()
    require_within(positions, -len(cos), len(cos) - 1, "a position")
    places = (positions % len(cos)).long().expand(*x.shape[: positions.dim() - 1], x.shape[2])
    return _Rotation.apply(x, cos, sin, places.contiguous())  # type: ignore[return-value]


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin, positions)
        out = torch.empty(x.shape, dtype=x.dtype)
        _turn(x, out, cos, sin, positions)
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin, positions = ctx.saved_tensors
        (grad,) = grad_outputs
        batch, heads, seq, head_dim = grad.shape
        back = torch.empty(batch, seq, heads, head_dim, dtype=grad.dtype).transpose(1, 2)  # as the linear layer had it
        _turn(grad if grad.stride(-1) == 1 else grad.contiguous(), back, cos, -sin, positions)
        return back, None, None, None


def _turn(x: Tensor, out: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> None:
    batch, heads, seq, head_dim = x.shape
    a_row_of_positions = seq if positions.dim() == 2 else 0
    strides = *x.stride()[:3], *out.stride()[:3]
    sizes = a_row_of_positions, heads, seq, head_dim
    run(_rotate, batch * heads, 1, x, out, cos, sin, positions, *sizes, *strides)


@Body
def _rotate(table):
    a = FIRST_ARGUMENT
    x, out, cos, sin = bf16s(table[a]), bf16s(table[a + 1]), fp32s(table[a + 2]), fp32s(table[a + 3])
    positions, a_row_of_positions = int64s(table[a + 4]), table[a + 5]
    heads, seq, half = table[a + 6], table[a + 7], table[a + 8] // 2
    row = take_rows(table)
    while row < table[ROWS]:
        batch, head = row // heads, row % heads
        read = batch * table[a + 9] + head * table[a + 10]
        write = batch * table[a + 12] + head * table[a + 13]
        for place in range(seq):
            angle = positions[batch * a_row_of_positions + place] * half
            for i in range(half):
                one, other = load(x, read + i), load(x, read + half + i)
                c, s = cos[angle + i], sin[angle + i]
                store(out, write + i, one * c - other * s)
                store(out, write + half + i, other * c + one * s)
            read, write = read + table[a + 11], write + table[a + 14]
        row = take_rows(table)
