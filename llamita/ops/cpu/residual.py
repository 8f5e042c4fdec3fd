"""What the layers in one piece share: the way between fp32, of the residual stream, weights and gradients, and bf16."""

from typing import Any

import torch
from torch import Tensor

from llamita.jit.machine_code import Body
from llamita.jit.numbers import bf16s, end_of, fp32s, load, store_any, take_rows
from llamita.jit.pool import FIRST_ARGUMENT, ROWS
from llamita.ops.cpu.launch import run
from llamita.ops.cpu.workspace import scratch

ELEMENTS_AT_ONCE = 1 << 13


def add_to_residual(x: Tensor, added: Tensor) -> Tensor:
    """x fp32 + added bf16, of as many elements -> another of the shape of x, fp32."""
    out = torch.empty_like(x)
    run(_add, x.numel(), ELEMENTS_AT_ONCE, x, added, out)
    return out


def narrowed(name: str, *parts: Tensor) -> Tensor:
    """Contiguous tensors fp32, one behind the other, as bf16 in the workspace -> (elements,), or the shape of the only
    one."""
    out = scratch(name, sum(part.numel() for part in parts), like=parts[0])
    places: list[Tensor | int] = []
    end = 0
    for part in parts:
        end += part.numel()
        places += [part, end]
    run(_narrow, end, ELEMENTS_AT_ONCE, out, *places)
    return out.view(parts[0].shape) if len(parts) == 1 else out


def narrowed_weights(*weights: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices fp32 -> all but the last, one below the other, and the last, as bf16 in the workspace."""
    flat, last = narrowed("weights", *weights), weights[-1]
    split = len(flat) - last.numel()
    return flat[:split].view(-1, weights[0].shape[1]), flat[split:].view(last.shape)


def widened_product(one: Tensor, other: Tensor) -> Tensor:
    """A product of bf16 matrices, as fp32."""
    product = scratch("product", one.shape[0], other.shape[1], like=one)
    return torch.mm(one, other, out=product).float()


def spend(ctx: Any) -> None:
    """Mark that a layer's backward pass has begun, which overwrites what its forward pass kept.

    Raises `RuntimeError` at a second one, as torch does where nobody asks it to `retain_graph`.
    """
    if ctx.is_spent:
        raise RuntimeError("a second backward pass through the same forward pass: that takes --kernels plain")
    ctx.is_spent = True


@Body
def _add(table):
    x, added, out = fp32s(table[FIRST_ARGUMENT]), bf16s(table[FIRST_ARGUMENT + 1]), fp32s(table[FIRST_ARGUMENT + 2])
    first = take_rows(table)
    while first < table[ROWS]:
        for i in range(first, end_of(table, first)):
            out[i] = x[i] + load(added, i)
        first = take_rows(table)


@Body
def _narrow(table):
    """Each part has two places in the table: its address, and the place in `out` behind its last element."""
    out = bf16s(table[FIRST_ARGUMENT])
    first = take_rows(table)
    while first < table[ROWS]:
        end, begin, part = end_of(table, first), 0, FIRST_ARGUMENT + 1
        while first < end:
            if first < table[part + 1]:
                x, stop = fp32s(table[part]), min(end, table[part + 1])
                for i in range(first, stop):
                    store_any(out, i, x[i - begin])
                first = stop
            begin, part = table[part + 1], part + 2
        first = take_rows(table)
