"""RMSNorm to bf16 in one pass, and its gradients in another.

    y = x · r · w,   r = 1 / sqrt(mean(x²) + eps)

With g = dy · w, and since r depends on all of x:

    dx = r · (g - x · r² · mean(g · x)),   dw = Σ over rows of dy · x · r

The sums for dw are computed per chunk of rows and added in a fixed order, so the result does not depend on which thread
computed which chunk. x and r (`rstd`) are saved for the backward pass; products that read y recompute it from them.
"""

from typing import Any

import torch
from torch import Tensor

from llamita.jit.machine_code import ParallelKernel
from llamita.jit.pool import ARGS, CHUNK_SIZE, NUM_ROWS
from llamita.jit.primitives import F, as_fp64, bf16_ptr, chunk_end, fp32_ptr, load, next_chunk, sqrt, store_nan_safe
from llamita.ops.cpu.launch import launch, once_differentiable
from llamita.ops.cpu.recompute import Recompute, attach

CHUNK = 1 << 14  # elements


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of x (..., size) with `weight` (size,) -> the same shape in bf16, rounded once."""
    x, weight = x.float().contiguous(), weight.float().contiguous()
    rstd = torch.empty(x.numel() // max(1, x.shape[-1]), dtype=torch.float32)  # r of each row
    out: Any = _RMSNorm.apply(x, weight, rstd, eps)
    return attach(out, Recompute("normed", tuple(x.shape), rms_norm_recompute), x, weight, rstd)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rstd: Tensor, eps: float) -> Tensor:
        out = torch.empty(x.shape, dtype=torch.bfloat16)
        rms_norm_forward(x, weight, eps, out, rstd)
        ctx.save_for_backward(x, weight, rstd)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, rstd = ctx.saved_tensors
        d_x, d_weight = rms_norm_backward(x, weight, rstd, grad_outputs[0].contiguous())
        return d_x, d_weight, None, None


def rms_norm_forward(x: Tensor, weight: Tensor, eps: float, out: Tensor, rstd: Tensor) -> None:
    """Fill `out`, bf16, with the RMSNorm of x, and `rstd`, fp32, with r of each row."""
    size = x.shape[-1]
    launch(_forward, len(rstd), _rows_per_chunk(size), x, weight, out, rstd, size, float(eps))


def rms_norm_recompute(out: Tensor, x: Tensor, weight: Tensor, rstd: Tensor) -> None:
    """Fill `out`, bf16, with x · r · weight, as `rms_norm_forward` did."""
    size = x.shape[-1]
    launch(_recompute, len(rstd), _rows_per_chunk(size), x, weight, out, rstd, size)


def rms_norm_backward(x: Tensor, weight: Tensor, rstd: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the weight, fp32, from `grad`, that of the output, bf16."""
    rows, size = len(rstd), x.shape[-1]
    d_x = torch.empty_like(x)
    partial = torch.zeros(-(-rows // _rows_per_chunk(size)), size, dtype=torch.float32)  # dw of each chunk of rows
    launch(_backward, rows, _rows_per_chunk(size), x, weight, rstd, grad, d_x, partial, size)
    return d_x, partial.sum(0)


def _rows_per_chunk(size: int) -> int:
    return max(1, CHUNK // size)


@ParallelKernel
def _forward(table):
    x, weight = fp32_ptr(table[ARGS]), fp32_ptr(table[ARGS + 1])
    out, rstd = bf16_ptr(table[ARGS + 2]), fp32_ptr(table[ARGS + 3])
    size, eps = table[ARGS + 4], F(as_fp64(table[ARGS + 5]))
    first = next_chunk(table)
    while first < table[NUM_ROWS]:
        for row in range(first, chunk_end(table, first)):
            begin, squares = row * size, F(0.0)
            for i in range(size):
                squares += x[begin + i] * x[begin + i]
            r = F(1.0) / sqrt(squares / F(size) + eps)
            rstd[row] = r
            for i in range(size):
                store_nan_safe(out, begin + i, x[begin + i] * r * weight[i])
        first = next_chunk(table)


@ParallelKernel
def _recompute(table):
    x, weight = fp32_ptr(table[ARGS]), fp32_ptr(table[ARGS + 1])
    out, rstd = bf16_ptr(table[ARGS + 2]), fp32_ptr(table[ARGS + 3])
    size = table[ARGS + 4]
    first = next_chunk(table)
    while first < table[NUM_ROWS]:
        for row in range(first, chunk_end(table, first)):
            begin, r = row * size, rstd[row]
            for i in range(size):
                store_nan_safe(out, begin + i, x[begin + i] * r * weight[i])
        first = next_chunk(table)


@ParallelKernel
def _backward(table):
    x, weight, rstd = fp32_ptr(table[ARGS]), fp32_ptr(table[ARGS + 1]), fp32_ptr(table[ARGS + 2])
    dy, dx, partial = bf16_ptr(table[ARGS + 3]), fp32_ptr(table[ARGS + 4]), fp32_ptr(table[ARGS + 5])
    size = table[ARGS + 6]
    first = next_chunk(table)
    while first < table[NUM_ROWS]:
        chunk = first // table[CHUNK_SIZE] * size  # offset of this chunk's dw
        for row in range(first, chunk_end(table, first)):
            begin, r, mean = row * size, rstd[row], F(0.0)
            for i in range(size):
                mean += load(dy, begin + i) * weight[i] * x[begin + i]
            mean *= r * r / F(size)
            for i in range(size):
                partial[chunk + i] += load(dy, begin + i) * x[begin + i] * r
            for i in range(size):  # not r³, which may underflow in fp32
                dx[begin + i] = r * (load(dy, begin + i) * weight[i] - x[begin + i] * mean)
        first = next_chunk(table)
