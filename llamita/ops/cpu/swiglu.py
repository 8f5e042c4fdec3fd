"""silu(gate) · up in one pass, and its gradient in another.

    silu(g) = g · σ(g),   σ(g) = 1 / (1 + e^-g)
    d/dg silu(g) = σ(g) · (1 + g · (1 - σ(g)))

Only the inputs are kept for the backward pass; the product that reads the result computes it from these again.
"""

from typing import Any

import torch
from torch import Tensor

from llamita.jit.machine_code import Body
from llamita.jit.numbers import F, bf16s, end_of, exp, load, store, take_rows
from llamita.jit.pool import FIRST_ARGUMENT, ROWS
from llamita.ops.cpu.launch import first_order, run
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
    @first_order
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
        run(_backward, gate.numel(), CHUNK, gate, up, grad, d_gate, d_up)
        return d_gate, d_up


def _fill(out: Tensor, gate: Tensor, up: Tensor) -> None:
    run(_forward, gate.numel(), CHUNK, gate, up, out)


@Body
def _forward(table):
    gate, up, out = bf16s(table[FIRST_ARGUMENT]), bf16s(table[FIRST_ARGUMENT + 1]), bf16s(table[FIRST_ARGUMENT + 2])
    first = take_rows(table)
    while first < table[ROWS]:
        for i in range(first, end_of(table, first)):
            g = load(gate, i)
            store(out, i, g / (F(1.0) + exp(-g)) * load(up, i))
        first = take_rows(table)


@Body
def _backward(table):
    gate, up, grad = bf16s(table[FIRST_ARGUMENT]), bf16s(table[FIRST_ARGUMENT + 1]), bf16s(table[FIRST_ARGUMENT + 2])
    d_gate, d_up = bf16s(table[FIRST_ARGUMENT + 3]), bf16s(table[FIRST_ARGUMENT + 4])
    first = take_rows(table)
    while first < table[ROWS]:
        for i in range(first, end_of(table, first)):
            g, d = load(gate, i), load(grad, i)
            sigma = F(1.0) / (F(1.0) + exp(-g))
            store(d_gate, i, d * load(up, i) * sigma * (F(1.0) + g * (F(1.0) - sigma)))
            store(d_up, i, d * g * sigma)
        first = take_rows(table)
