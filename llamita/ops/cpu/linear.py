"""A linear layer in bf16 with fp32 weights, for training: what autocast computes, with less kept for the backward pass.

    y = x · Wᵀ + b,      dx = dy · W,   dW = dyᵀ · x,   db = Σ dy

Products are bf16 with sums in fp32. The bf16 copy of W is made in a scratch buffer, again in the backward pass, so no
copy of the weights is ever kept; x is kept, unless it can be computed again (see `recompute`).
"""

from typing import Any

import torch
from torch import Tensor

from llamita.ops.cpu.launch import first_order
from llamita.ops.cpu.narrow import narrow, narrow_weight, product_in_fp32
from llamita.ops.cpu.recompute import Recipe, Recompute, recipe_of

BF16, FP32 = torch.bfloat16, torch.float32


def fits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether these have the types and the layout that the kernel reads, and x has elements."""
    in_fp32 = weight.dtype == FP32 and weight.is_contiguous() and (bias is None or bias.dtype == FP32)
    return in_fp32 and x.dtype in (BF16, FP32) and x.numel() > 0


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., in) bf16 or fp32, weight (out, in) fp32, bias (out,) fp32 -> (..., out) bf16."""
    return _Linear.apply(x, weight, bias, recipe_of(x))  # type: ignore[return-value]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, recipe: Recipe | None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (tokens, in)
        if rows.dtype == FP32:
            rows = rows.contiguous()
            recipe = recipe or Recipe(_narrowed(rows), (rows,), 0)
            rows = narrow(rows, torch.empty_like(rows, dtype=BF16))
        out = torch.mm(rows, narrow_weight(weight).T)  # (tokens, out)
        if bias is not None:
            out += bias
        ctx.recompute, saved = (recipe.recompute, recipe.tensors) if recipe else (None, (rows,))
        ctx.save_for_backward(weight, *saved)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        return out.view(*x.shape[:-1], len(weight))

    @staticmethod
    @first_order
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        weight, *saved = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        grad = grad_outputs[0].reshape(-1, len(weight))  # (tokens, out)
        d_x = d_weight = d_bias = None
        if wants_weight:
            rows = ctx.recompute(*saved).view(-1, weight.shape[1]) if ctx.recompute else saved[0]
            d_weight = product_in_fp32(grad.T, rows)
        if wants_x:
            d_x = torch.mm(grad, narrow_weight(weight)).view(ctx.shape).to(ctx.dtype)
        if wants_bias:
            d_bias = grad.sum(0, dtype=FP32)
        return d_x, d_weight, d_bias, None


def _narrowed(rows: Tensor) -> Recompute:
    """fp32 rows are kept by whatever made them, or shared with other products: not a bf16 copy for each."""
    return Recompute("narrowed", tuple(rows.shape), lambda out, x: narrow(x, out))
