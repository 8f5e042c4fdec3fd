"""The gated feed-forward layer with all that stands around it, x + feed_forward(norm(x)), as one piece.

    n = norm(x),   [g u] = n · [Wg Wu]ᵀ,   h = silu(g) · u,   y = x + h · Wdᵀ

Kept for the backward pass are x, g, u, and a number a token; n and h are computed again, each together with its
gradient:

    dh = dy · Wd,   [dg du] from dh, g, u,   dn = [dg du] · [Wg Wu],   dx = dy + (gradient of norm)(dn)
    dWd = dyᵀ · h,   dW = [dg du]ᵀ · n

x and y are fp32, everything between is bf16; so are products, which sum in fp32. What is not kept lies in memory that
all layers share (see `workspace`).
"""

from typing import Any

import torch
from torch import Tensor

from llamita.ops.cpu.gate import gate_joined, gate_joined_backward
from llamita.ops.cpu.norm import normalize, normalize_backward
from llamita.ops.cpu.residual import add_to_residual, narrowed, narrowed_weights, spend, widened_product
from llamita.ops.cpu.workspace import scratch


def feed_forward_layer(x: Tensor, norm: Tensor, eps: float, weights: tuple[Tensor, ...]) -> Tensor:
    """x (batch, seq, hidden) fp32 -> x + feed_forward(rms_norm(x)) of the same shape, fp32.

    norm (hidden,), weights of gate, up and down: all fp32 and contiguous, as x.
    """
    return _FeedForwardLayer.apply(x, norm, eps, *weights)  # type: ignore[return-value]


class _FeedForwardLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, eps: float, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        tokens, hidden = x.numel() // x.shape[-1], x.shape[-1]
        into, out = narrowed_weights(gate, up, down)
        normed = scratch("hidden", tokens, hidden, like=x)
        factors = normalize(x, norm, eps, normed)
        joined = torch.mm(normed, into.T, out=x.new_empty(tokens, len(into), dtype=normed.dtype))  # (tokens, 2 · size)
        gated = scratch("joined", tokens, len(gate), like=x)
        gate_joined(joined, gated)
        added = torch.mm(gated, out.T, out=normed)
        ctx.save_for_backward(x, norm, factors, joined, gate, up, down)
        ctx.is_spent = False
        return add_to_residual(x, added)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        spend(ctx)
        x, norm, factors, joined, gate, up, down = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        tokens, hidden = x.numel() // x.shape[-1], x.shape[-1]
        into, out = narrowed_weights(gate, up, down)
        narrow = narrowed("hidden", grad.view(tokens, hidden))
        gated = torch.mm(narrow, out, out=scratch("joined", tokens, len(gate), like=x))  # its gradient, at first
        gate_joined_backward(joined, gated)
        d_down = widened_product(narrow.T, gated)
        d_normed = torch.mm(joined, into, out=narrow)
        d_x, normed = torch.empty_like(x), scratch("normed", tokens, hidden, like=x)
        d_norm = normalize_backward(x, norm, factors, d_normed, d_x, past=grad, again=normed)
        d_gate, d_up = widened_product(joined.T, normed).split([len(gate), len(up)])
        return d_x, d_norm, None, d_gate, d_up, d_down
