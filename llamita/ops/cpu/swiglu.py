"""silu(gate) · up in one pass, and its gradients in another.

    silu(g) = g · σ(g),   σ(g) = 1 / (1 + e^-g)
    d/dg silu(g) = σ(g) · (1 + g · (1 - σ(g)))

Only the inputs are saved for the backward pass; the matrix product that reads the output recomputes it from them.
"""

from typing import Any

import torch
from torch import Tensor

from llamita.jit.machine_code import ParallelKernel
from llamita.jit.pool import ARGS, NUM_ROWS
from llamita.jit.primitives import F, bf16_ptr, chunk_end, exp, load, next_chunk, store
from llamita.ops.cpu.launch import launch, once_differentiable
from llamita.ops.cpu.recompute import Recompute, attach

CHUNK = 1 << 14  # elements


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up, both bf16 of the same shape; computed in fp32, rounded once."""
    gate, up = gate.contiguous(), up.contiguous()
    out: Any = _SwiGLU.apply(gate, up)
    return attach(out, Recompute("gated", tuple(gate.shape), _fill), gate, up)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate)
        _fill(out, gate, up)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
        launch(_backward, gate.numel(), CHUNK, gate, up, grad, d_gate, d_up)
        return d_gate, d_up


def _fill(out: Tensor, gate: Tensor, up: Tensor) -> None:
    launch(_forward, gate.numel(), CHUNK, gate, up, out)


@ParallelKernel
def _forward(table):
    gate, up, out = bf16_ptr(table[ARGS]), bf16_ptr(table[ARGS + 1]), bf16_ptr(table[ARGS + 2])
    first = next_chunk(table)
    while first < table[NUM_ROWS]:
        for i in range(first, chunk_end(table, first)):
            g = load(gate, i)
            store(out, i, g / (F(1.0) + exp(-g)) * load(up, i))
        first = next_chunk(table)


@ParallelKernel
def _backward(table):
    gate, up, grad = bf16_ptr(table[ARGS]), bf16_ptr(table[ARGS + 1]), bf16_ptr(table[ARGS + 2])
    d_gate, d_up = bf16_ptr(table[ARGS + 3]), bf16_ptr(table[ARGS + 4])
    first = next_chunk(table)
    while first < table[NUM_ROWS]:
        for i in range(first, chunk_end(table, first)):
            g, d = load(gate, i), load(grad, i)
            sigma = F(1.0) / (F(1.0) + exp(-g))
            store(d_gate, i, d * load(up, i) * sigma * (F(1.0) + g * (F(1.0) - sigma)))
            store(d_up, i, d * g * sigma)
        first = next_chunk(table)
