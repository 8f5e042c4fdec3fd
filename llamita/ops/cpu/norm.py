"""RMSNorm to bf16 in one pass, and its gradient in another.

    y = x · r · w,   r = 1 / sqrt(mean(x²) + eps)

With g = dy · w, the gradient by the normed vector is that of x · r, where r changes with all of x:

    dx = r · (g - x · r² · mean(g · x)),   dw = Σ over vectors of dy · x · r

The sums for dw are made for each chunk of rows and then added in their order, so that the result does not depend on
which thread took which chunk. Kept for the backward pass are x and r; products that read y compute it from these again.
"""

from typing import Any

import torch
from torch import Tensor

from llamita.jit.machine_code import Body
from llamita.jit.numbers import F, bf16s, end_of, fp32s, fp64, load, sqrt, store_any, take_rows
from llamita.jit.pool import AT_ONCE, FIRST_ARGUMENT, ROWS
from llamita.ops.cpu.launch import first_order, run
from llamita.ops.cpu.recompute import Recompute, attach

CHUNK = 1 << 14  # elements


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of x (..., size) by `weight` (size,) -> the same shape in bf16, rounded once."""
    x, weight = x.float().contiguous(), weight.float().contiguous()
    factors = torch.empty(x.numel() // max(1, x.shape[-1]), dtype=torch.float32)  # r of each vector
    out: Any = _RMSNorm.apply(x, weight, factors, eps)
    return attach(out, Recompute("normed", tuple(x.shape), scale_rows), x, weight, factors)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, factors: Tensor, eps: float) -> Tensor:
        out = torch.empty(x.shape, dtype=torch.bfloat16)
        normalize(x, weight, eps, out, factors)
        ctx.save_for_backward(x, weight, factors)
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, factors = ctx.saved_tensors
        d_x, d_weight = normalize_backward(x, weight, factors, grad_outputs[0].contiguous())
        return d_x, d_weight, None, None


def normalize(x: Tensor, weight: Tensor, eps: float, out: Tensor, factors: Tensor) -> None:
    """Fill `out`, bf16, with the RMSNorm of x, and `factors`, fp32, with r of each vector."""
    size = x.shape[-1]
    run(_forward, len(factors), _rows_per_chunk(size), x, weight, out, factors, size, float(eps))


def scale_rows(out: Tensor, x: Tensor, weight: Tensor, factors: Tensor) -> None:
    """Fill `out`, bf16, with x · r · weight, as `normalize` did."""
    size = x.shape[-1]
    run(_scale_rows, len(factors), _rows_per_chunk(size), x, weight, out, factors, size)


def normalize_backward(x: Tensor, weight: Tensor, factors: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """From `grad`, bf16, by what `normalize` computed -> the gradients by x and by the weight, fp32."""
    rows, size = len(factors), x.shape[-1]
    d_x = torch.empty_like(x)
    partial = torch.zeros(-(-rows // _rows_per_chunk(size)), size, dtype=torch.float32)  # dw of each chunk of rows
    run(_backward, rows, _rows_per_chunk(size), x, weight, factors, grad, d_x, partial, size)
    return d_x, partial.sum(0)


def _rows_per_chunk(size: int) -> int:
    return max(1, CHUNK // size)


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
def _scale_rows(table):
    x, weight, out, factors = (
        fp32s(table[FIRST_ARGUMENT]),
        fp32s(table[FIRST_ARGUMENT + 1]),
        bf16s(table[FIRST_ARGUMENT + 2]),
        fp32s(table[FIRST_ARGUMENT + 3]),
    )
    size = table[FIRST_ARGUMENT + 4]
    first = take_rows(table)
    while first < table[ROWS]:
        for row in range(first, end_of(table, first)):
            begin, factor = row * size, factors[row]
            for i in range(size):
                store_any(out, begin + i, x[begin + i] * factor * weight[i])
        first = take_rows(table)


@Body
def _backward(table):
    x, weight, factors, grad, d_x, partial = (
        fp32s(table[FIRST_ARGUMENT]),
        fp32s(table[FIRST_ARGUMENT + 1]),
        fp32s(table[FIRST_ARGUMENT + 2]),
        bf16s(table[FIRST_ARGUMENT + 3]),
        fp32s(table[FIRST_ARGUMENT + 4]),
        fp32s(table[FIRST_ARGUMENT + 5]),
    )
    size = table[FIRST_ARGUMENT + 6]
    first = take_rows(table)
    while first < table[ROWS]:
        sums = first // table[AT_ONCE] * size
        for row in range(first, end_of(table, first)):
            begin, factor, mean = row * size, factors[row], F(0.0)
            for i in range(size):
                mean += load(grad, begin + i) * weight[i] * x[begin + i]
            mean *= factor * factor / F(size)
            for i in range(size):
                partial[sums + i] += load(grad, begin + i) * x[begin + i] * factor
            for i in range(size):  # r³ by itself may be too small for fp32
                d_x[begin + i] = factor * (load(grad, begin + i) * weight[i] - x[begin + i] * mean)
        first = take_rows(table)
