"""Rotary position embedding in one pass.

    (a, b) -> (a · cos - b · sin, b · cos + a · sin)      for element i of a head's first half and of its second half

The gradient is rotated by the opposite angle: the same with -sin. Tensors (batch, heads, seq, head_dim) may have any
strides, so the interleaved heads that a linear layer produces are read in place and written head by head, without a
copy.
"""

import threading
import weakref
from typing import Any

import torch
from torch import Tensor

from llamita.jit.machine_code import ParallelKernel
from llamita.jit.pool import ARGS, NUM_ROWS
from llamita.jit.primitives import F, bf16_ptr, fp32_ptr, helper, int64_ptr, load, next_chunk, store
from llamita.ops.cpu.launch import check_bounds, launch, once_differentiable

_last_positions = threading.local()


def rope(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
    """x (batch, heads, seq, head_dim) bf16, its last dimension contiguous -> x rotated, contiguous.

    cos, sin (max_seq_len, head_dim / 2) fp32; positions (seq,) or (batch, seq) int64. Negative positions count from the
    end of the table, e.g. the -1 of padding. Raises `IndexError` for a position outside the table.
    """
    x = x if x.stride(-1) == 1 else x.contiguous()
    rows = table_rows(positions, len(cos), x.shape[0], x.shape[2])
    return _Rope.apply(x, cos, sin, rows)  # type: ignore[return-value]


def table_rows(positions: Tensor, rows: int, batch: int, seq: int) -> Tensor:
    """positions as in `rope` -> their rows in a table of `rows` rows: (seq,) or (batch, seq), contiguous.

    All layers are called with the same positions, so the last result is cached.
    """
    arguments = rows, batch, seq, 0 if positions.is_inference() else positions._version
    last: dict[str, Any] = _last_positions.__dict__
    if not last or last["positions"]() is not positions or last["arguments"] != arguments:
        check_bounds(positions, -rows, rows - 1, "a position")
        result = (positions % rows).long().expand(*(batch,) * (positions.dim() - 1), seq).contiguous()
        last.update(positions=weakref.ref(positions), arguments=arguments, result=result)
    return last["result"]


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin, positions)
        out = torch.empty(x.shape, dtype=x.dtype)
        _rotate_heads(x, out, cos, sin, positions, 1)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin, positions = ctx.saved_tensors
        (grad,) = grad_outputs
        batch, heads, seq, head_dim = grad.shape
        # In the layout of the linear layer before it.
        d_x = torch.empty(batch, seq, heads, head_dim, dtype=grad.dtype).transpose(1, 2)
        _rotate_heads(grad if grad.stride(-1) == 1 else grad.contiguous(), d_x, cos, sin, positions, -1)
        return d_x, None, None, None


def _rotate_heads(x: Tensor, out: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, sign: int) -> None:
    batch, heads, seq, head_dim = x.shape
    positions_stride = seq if positions.dim() == 2 else 0
    strides = *x.stride()[:3], *out.stride()[:3]
    sizes = positions_stride, heads, seq, head_dim, sign
    launch(_rotate, batch * heads, 1, x, out, cos, sin, positions, *sizes, *strides)


@helper
def _rotate_pairs(x, read, out, write, half, cos, sin, angle, sign):
    """Rotate one head of one token."""
    for i in range(half):
        first, second = load(x, read + i), load(x, read + half + i)
        c, s = cos[angle + i], sin[angle + i] * sign
        store(out, write + i, first * c - second * s)
        store(out, write + half + i, second * c + first * s)


@ParallelKernel
def _rotate(table):
    x, out = bf16_ptr(table[ARGS]), bf16_ptr(table[ARGS + 1])
    cos, sin = fp32_ptr(table[ARGS + 2]), fp32_ptr(table[ARGS + 3])
    positions, positions_stride = int64_ptr(table[ARGS + 4]), table[ARGS + 5]
    heads, seq, half, sign = table[ARGS + 6], table[ARGS + 7], table[ARGS + 8] // 2, F(table[ARGS + 9])
    row = next_chunk(table)
    while row < table[NUM_ROWS]:
        batch, head = row // heads, row % heads
        read = batch * table[ARGS + 10] + head * table[ARGS + 11]
        write = batch * table[ARGS + 13] + head * table[ARGS + 14]
        for token in range(seq):
            angle = positions[batch * positions_stride + token] * half
            _rotate_pairs(x, read, out, write, half, cos, sin, angle, sign)
            read, write = read + table[ARGS + 12], write + table[ARGS + 15]
        row = next_chunk(table)
