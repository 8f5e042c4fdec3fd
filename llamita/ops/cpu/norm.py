"""RMSNorm that hands on bf16, in one pass, and its gradient in another.

    y = x · r · w,   r = 1 / sqrt(mean(x²) + eps)

With g = dy · w, the gradient by what is normed is that of x · r, where r changes with all of x:

    dx = r · (g - x · r² · mean(g · x)),   dw = Σ over vectors of dy · x · r

The sums for dw are made for each block of rows and then added up in their order, so that the result does not depend on
which thread took which block.
"""

from typing import Any

import torch
from torch import Tensor

from llamita.jit.machine_code import Body
from llamita.jit.numbers import F, bf16s, end_of, fp32s, fp64, load, sqrt, store_any, take_rows
from llamita.jit.pool import AT_ONCE, FIRST_ARGUMENT, ROWS
from llamita.ops.cpu.launch import run

ELEMENTS_AT_ONCE = 1 << 14


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of x (..., size) fp32 by `weight` (size,) -> the same shape in bf16, rounded once."""
    return _RMSNorm.apply(x.contiguous(), weight.float().contiguous(), eps)  # type: ignore[return-value]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out = torch.empty(x.shape, dtype=torch.bfloat16)
        factors = normalize(x, weight, eps, out)
        ctx.save_for_backward(x, weight, factors)
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, factors = ctx.saved_tensors
        d_x = torch.empty_like(x)
        d_weight = normalize_backward(x, weight, factors, grad_outputs[0].contiguous(), d_x)
        return d_x, d_weight, None


def normalize(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Tensor:
    """Fill `out`, bf16, with the RMSNorm of x -> r of each vector, fp32."""
    rows, size = x.numel() // x.shape[-1], x.shape[-1]
    factors = torch.empty(rows, dtype=torch.float32)
    run(_forward, rows, _rows_at_once(size), x, weight, out, factors, size, float(eps))
    return factors


def normalize_backward(
    x: Tensor,
    weight: Tensor,
    factors: Tensor,
    grad: Tensor,
    d_x: Tensor,
    *,
    past: Tensor | None = None,
    again: Tensor | None = None,
) -> Tensor:
    """Fill `d_x` from `grad`, the gradient by what `normalize` made, bf16 -> the gradient by the weight, fp32.

    `past`: what came to x past the norm, and is added to its gradient (it may be `d_x` itself). `again`: is filled with
    what `normalize` made, bf16.
    """
    rows, size = len(factors), x.shape[-1]
    blocks = torch.zeros(-(-rows // _rows_at_once(size)), size, dtype=torch.float32)
    optional = (0 if tensor is None else tensor for tensor in (past, again))
    run(_backward, rows, _rows_at_once(size), x, weight, factors, grad, d_x, blocks, size, *optional)
    return blocks.sum(0)


def _rows_at_once(size: int) -> int:
    return max(1, ELEMENTS_AT_ONCE // size)


@Body
def _forward(table):
    x, weight, out, factors = (
        fp32s(table[FIRST_ARGUMENT]),
        fp32s(table[FIRST_ARGUMENT + 1]),
        bf16s(table[FIRST_ARGUMENT + 2]),
        fp32s(table[FIRST_ARGUMENT + 3]),
    )
    size, eps = table[FIRST_ARGUMENT + 4], F(fp64(table[FIRST_ARGUMENT + 5]))
    first = take_rows(table)
    while first < table[ROWS]:
        for row in range(first, end_of(table, first)):
            begin, squares = row * size, F(0.0)
            for i in range(size):
                squares += x[begin + i] * x[begin + i]
            factor = F(1.0) / sqrt(squares / F(size) + eps)
            factors[row] = factor
            for i in range(size):
                store_any(out, begin + i, x[begin + i] * factor * weight[i])
        first = take_rows(table)


@Body
def _backward(table):
    x, weight, factors, grad, d_x, blocks = (
        fp32s(table[FIRST_ARGUMENT]),
        fp32s(table[FIRST_ARGUMENT + 1]),
        fp32s(table[FIRST_ARGUMENT + 2]),
        bf16s(table[FIRST_ARGUMENT + 3]),
        fp32s(table[FIRST_ARGUMENT + 4]),
        fp32s(table[FIRST_ARGUMENT + 5]),
    )
    size, past, again = table[FIRST_ARGUMENT + 6], fp32s(table[FIRST_ARGUMENT + 7]), bf16s(table[FIRST_ARGUMENT + 8])
    first = take_rows(table)
    while first < table[ROWS]:
        sums = first // table[AT_ONCE] * size
        for row in range(first, end_of(table, first)):
            begin, factor, mean = row * size, factors[row], F(0.0)
            for i in range(size):
                mean += load(grad, begin + i) * weight[i] * x[begin + i]
            mean *= factor * factor / F(size)
            for i in range(size):
                blocks[sums + i] += load(grad, begin + i) * x[begin + i] * factor
            if table[FIRST_ARGUMENT + 8]:
                for i in range(size):
                    store_any(again, begin + i, x[begin + i] * factor * weight[i])
            if table[FIRST_ARGUMENT + 7]:
                for i in range(size):  # r³ by itself may be too small for fp32
                    slope = factor * (load(grad, begin + i) * weight[i] - x[begin + i] * mean)
                    d_x[begin + i] = past[begin + i] + slope
            else:
                for i in range(size):
                    d_x[begin + i] = factor * (load(grad, begin + i) * weight[i] - x[begin + i] * mean)
        first = take_rows(table)
