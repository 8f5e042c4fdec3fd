"""Attention with all that stands around it, x + attention(norm(x)), as one piece.

    n = norm(x),   [q k v] = n · [Wq Wk Wv]ᵀ,   turned by their positions,   y = x + attention(q, k, v) · Woᵀ

In one piece it is fewer and larger matrix products, and less is kept for the backward pass: x, q, k, v, what attention
made of them, and a number or two a token. The norm is computed again, together with its gradient:

    da = dy · Wo,   [dq dk dv] from da, turned back,   dn = [dq dk dv] · [Wq Wk Wv],   dx = dy + (gradient of norm)(dn)
    dWo = dyᵀ · a,   dW = [dq dk dv]ᵀ · n

x and y are fp32, everything between is bf16; so are products, which sum in fp32. What is not kept lies in memory that
all layers share (see `workspace`).
"""

from typing import Any

import torch
from torch import Tensor

from llamita.ops.cpu.attention import attend, attend_backward
from llamita.ops.cpu.norm import normalize, normalize_backward
from llamita.ops.cpu.residual import add_to_residual, narrowed, narrowed_weights, widened_product
from llamita.ops.cpu.rotation import Heads
from llamita.ops.cpu.workspace import scratch


def attention_layer(
    x: Tensor, norm: Tensor, eps: float, weights: tuple[Tensor, ...], heads: Heads, queries: int
) -> Tensor:
    """x (batch, seq, hidden) fp32 -> x + attention(rms_norm(x)) of the same shape, fp32.

    norm (hidden,), weights of q, k, v and of the output: all fp32 and contiguous, as x. `queries`: of a block.
    """
    return _AttentionLayer.apply(x, norm, eps, heads, queries, *weights)  # type: ignore[return-value]


class _AttentionLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, eps: float, heads: Heads, queries: int, *weights: Tensor) -> Tensor:
        batch, seq, hidden = x.shape
        tokens = batch * seq
        to_heads, from_heads = narrowed_weights(*weights)
        normed = scratch("hidden", tokens, hidden, like=x)
        factors = normalize(x, norm, eps, normed)
        joined = torch.mm(normed, to_heads.T, out=scratch("joined", tokens, len(to_heads), like=x))
        apart = torch.empty_like(joined)
        heads.separate(joined, apart, batch)
        mixed = apart.new_empty(batch, seq, heads.num_heads, heads.head_dim)
        logs = attend(*heads.apart(apart, batch, seq), mixed.transpose(1, 2), queries)
        added = torch.mm(mixed.view(tokens, -1), from_heads.T, out=normed)
        ctx.save_for_backward(x, norm, factors, apart, mixed, logs, *weights)
        ctx.heads, ctx.queries = heads, queries
        return add_to_residual(x, added)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, norm, factors, apart, mixed, logs, *weights = ctx.saved_tensors
        heads, grad = ctx.heads, grad_outputs[0].contiguous()
        batch, seq, hidden = x.shape
        tokens = batch * seq
        to_heads, from_heads = narrowed_weights(*weights)
        narrow = narrowed("hidden", grad.view(tokens, hidden))
        d_mixed = torch.mm(narrow, from_heads, out=scratch("normed", tokens, from_heads.shape[1], like=x))
        d_out = widened_product(narrow.T, mixed.view(tokens, -1))
        d_apart, d_joined = scratch("apart", *apart.shape, like=x), scratch("joined", *apart.shape, like=x)
        inputs, slopes = heads.apart(apart, batch, seq), heads.apart(d_apart, batch, seq)
        d_mixed = d_mixed.view(mixed.shape).transpose(1, 2)
        attend_backward(inputs, mixed.transpose(1, 2), logs, d_mixed, slopes, ctx.queries)
        heads.join(d_apart, d_joined, batch)
        d_normed = torch.mm(d_joined, to_heads, out=narrow)
        d_x, normed = torch.empty_like(x), scratch("normed", tokens, hidden, like=x)
        d_norm = normalize_backward(x, norm, factors, d_normed, d_x, past=grad, again=normed)
        d_heads = widened_product(d_joined.T, normed).split([len(weight) for weight in weights[:3]])
        return d_x, d_norm, None, None, None, *d_heads, d_out
