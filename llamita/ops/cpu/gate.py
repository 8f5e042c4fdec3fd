"""silu(gate) · up in one pass, and its gradient in another.

    silu(g) = g · σ(g),   σ(g) = 1 / (1 + e^-g)
    d/dg silu(g) = σ(g) · (1 + g · (1 - σ(g)))

Nothing but the inputs is kept for the backward pass. Where gate and up lie side by side, (tokens, 2 · size), as one
product makes them, they are read as they lie, and the backward pass leaves its results in their place.
"""

from typing import Any

import torch
from torch import Tensor

from llamita.jit.machine_code import Body
from llamita.jit.numbers import F, bf16s, end_of, exp, load, store, take_rows
from llamita.jit.pool import FIRST_ARGUMENT, ROWS
from llamita.ops.cpu.launch import run

AT_ONCE = 1 << 14  # elements


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up, both bf16 of the same shape; computed in fp32, rounded once."""
    return _GatedSilu.apply(gate.contiguous(), up.contiguous())  # type: ignore[return-value]


class _GatedSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate)
        run(_forward, gate.numel(), AT_ONCE, gate, up, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
        run(_backward, gate.numel(), AT_ONCE, gate, up, grad, d_gate, d_up)
        return d_gate, d_up


def gate_joined(joined: Tensor, out: Tensor) -> None:
    """Fill `out` (tokens, size) with silu(gate) · up of `joined` (tokens, 2 · size), both bf16."""
    rows, size = out.shape
    run(_forward_joined, rows, _rows_at_once(size), joined, out, size)


def gate_joined_backward(joined: Tensor, grad: Tensor) -> None:
    """Put the gradients by gate and up in the place of these, and in the place of `grad` what `gate_joined` made."""
    rows, size = grad.shape
    run(_backward_joined, rows, _rows_at_once(size), joined, grad, size)


def _rows_at_once(size: int) -> int:
    return max(1, AT_ONCE // size)


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


@Body
def _forward_joined(table):
    joined, out, size = bf16s(table[FIRST_ARGUMENT]), bf16s(table[FIRST_ARGUMENT + 1]), table[FIRST_ARGUMENT + 2]
    first = take_rows(table)
    while first < table[ROWS]:
        for row in range(first, end_of(table, first)):
            gate, up, write = 2 * row * size, (2 * row + 1) * size, row * size
            for i in range(size):
                g = load(joined, gate + i)
                store(out, write + i, g / (F(1.0) + exp(-g)) * load(joined, up + i))
        first = take_rows(table)


@Body
def _backward_joined(table):
    joined, grad, size = bf16s(table[FIRST_ARGUMENT]), bf16s(table[FIRST_ARGUMENT + 1]), table[FIRST_ARGUMENT + 2]
    first = take_rows(table)
    while first < table[ROWS]:
        for row in range(first, end_of(table, first)):
            gate, up, read = 2 * row * size, (2 * row + 1) * size, row * size
            for i in range(size):
                g, u, d = load(joined, gate + i), load(joined, up + i), load(grad, read + i)
                sigma = F(1.0) / (F(1.0) + exp(-g))
                store(joined, gate + i, d * u * sigma * (F(1.0) + g * (F(1.0) - sigma)))
                store(joined, up + i, d * g * sigma)
                store(grad, read + i, g * sigma * u)
        first = take_rows(table)
