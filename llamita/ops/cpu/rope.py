"""Rotary positions in one pass.

    (a, b) -> (a · cos - b · sin, b · cos + a · sin)      for element i of the first half of a head and of the second

The gradient is rotated back: the same with -sin. Tensors (batch, heads, seq, head_dim) may have any strides, so the
heads that a linear layer leaves next to one another are read as they lie and written head by head, without a copy.
"""

import threading
import weakref
from typing import Any

import torch
from torch import Tensor

from llamita.jit.machine_code import Body
from llamita.jit.numbers import F, bf16s, fp32s, helper, int64s, load, store, take_rows
from llamita.jit.pool import FIRST_ARGUMENT, ROWS
from llamita.ops.cpu.launch import first_order, require_within, run

_latest = threading.local()


def rope(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
    """x (batch, heads, seq, head_dim) bf16, its last dimension contiguous -> x rotated, contiguous.

    cos, sin (max_seq_len, head_dim / 2) fp32; positions (seq,) or (batch, seq) int64, of which negative ones count from
    the end of the table, as -1 of padding does. Raises `IndexError` for a position outside of it.
    """
    x = x if x.stride(-1) == 1 else x.contiguous()
    rows = rows_of_table(positions, len(cos), x.shape[0], x.shape[2])
    return _Rotation.apply(x, cos, sin, rows)  # type: ignore[return-value]


def rows_of_table(positions: Tensor, rows: int, batch: int, seq: int) -> Tensor:
    """positions as in `rope` -> their rows in a table of `rows` rows: (seq,) or (batch, seq), contiguous.

    All layers are called with the same positions, so the last result is cached.
    """
    asked = rows, batch, seq, 0 if positions.is_inference() else positions._version
    last: dict[str, Any] = _latest.__dict__
    if not last or last["of"]() is not positions or last["asked"] != asked:
        require_within(positions, -rows, rows - 1, "a position")
        places = (positions % rows).long().expand(*(batch,) * (positions.dim() - 1), seq).contiguous()
        last.update(of=weakref.ref(positions), asked=asked, places=places)
    return last["places"]


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin, positions)
        out = torch.empty(x.shape, dtype=x.dtype)
        _rotate_heads(x, out, cos, sin, positions, 1)
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin, positions = ctx.saved_tensors
        (grad,) = grad_outputs
        batch, heads, seq, head_dim = grad.shape
        # In the layout of the linear layer before it.
        back = torch.empty(batch, seq, heads, head_dim, dtype=grad.dtype).transpose(1, 2)
        _rotate_heads(grad if grad.stride(-1) == 1 else grad.contiguous(), back, cos, sin, positions, -1)
        return back, None, None, None


def _rotate_heads(x: Tensor, out: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, sign: int) -> None:
    batch, heads, seq, head_dim = x.shape
    positions_stride = seq if positions.dim() == 2 else 0
    strides = *x.stride()[:3], *out.stride()[:3]
    sizes = positions_stride, heads, seq, head_dim, sign
    run(_kernel, batch * heads, 1, x, out, cos, sin, positions, *sizes, *strides)


@helper
def _rotate_pairs(source, read, target, write, half, cos, sin, angle, sign):
    """Rotate one head of one token."""
    for i in range(half):
        first, second = load(source, read + i), load(source, read + half + i)
        c, s = cos[angle + i], sin[angle + i] * sign
        store(target, write + i, first * c - second * s)
        store(target, write + half + i, second * c + first * s)


@Body
def _kernel(table):
    a = FIRST_ARGUMENT
    x, out, cos, sin = bf16s(table[a]), bf16s(table[a + 1]), fp32s(table[a + 2]), fp32s(table[a + 3])
    positions, positions_stride = int64s(table[a + 4]), table[a + 5]
    heads, seq, half, sign = table[a + 6], table[a + 7], table[a + 8] // 2, F(table[a + 9])
    row = take_rows(table)
    while row < table[ROWS]:
        batch, head = row // heads, row % heads
        read = batch * table[a + 10] + head * table[a + 11]
        write = batch * table[a + 13] + head * table[a + 14]
        for token in range(seq):
            angle = positions[batch * positions_stride + token] * half
            _rotate_pairs(x, read, out, write, half, cos, sin, angle, sign)
            read, write = read + table[a + 12], write + table[a + 15]
        row = take_rows(table)
