"""Causal attention of bf16 numbers, which never has more than a block of its scores in memory.

    S = Q Kᵀ,   P = softmax(s · S) under the causal triangle,   O = P V        with s = 1 / sqrt(head_dim)

A block of queries sees the keys up to its own end, so the half of all scores that causality hides is hardly computed;
the scores of a block are made, used and forgotten while they lie in the processor's cache, so memory grows with the
length of the context, not with its square (FlashAttention; Dao et al., 2022). Kept for the backward pass is one number
a query, l = ln Σ exp(s · S), out of which P is made again.

There are two ways to multiply: small tiles by instructions of the processor (`attention_in_tiles`), where it has them,
and larger blocks by torch's own products (`attention_in_blocks`).
"""

from typing import Any

import torch
from torch import Tensor

from llamita.ops.cpu import attention_in_blocks, attention_in_tiles


def blocked_attention(q: Tensor, k: Tensor, v: Tensor, queries: int = 0) -> Tensor:
    """softmax(q · kᵀ / sqrt(head_dim)) · v under the causal triangle; all bf16. A block has so many `queries`, or as
    many as are usual where that is 0; few are multiplied in tiles.

    q (batch, heads, seq, head_dim); k, v (batch, kv_heads, seq, head_dim), where kv_heads divides heads -> the shape
    of q, laid out such that the heads of one position are neighbours in memory.
    """
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    return _BlockedAttention.apply(q, k, v, queries)  # type: ignore[return-value]


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, queries: int) -> Tensor:
        out = _side_by_side(q)
        logs = attend(q, k, v, out, queries)
        ctx.save_for_backward(q, k, v, out, logs)
        ctx.queries = queries
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, logs = ctx.saved_tensors
        grad = grad_outputs[0] if grad_outputs[0].stride(-1) == 1 else grad_outputs[0].contiguous()
        d_q, d_k, d_v = _side_by_side(q), _side_by_side(k), _side_by_side(v)
        attend_backward((q, k, v), out, logs, grad, (d_q, d_k, d_v), ctx.queries)
        return d_q, d_k, d_v, None


def attend(q: Tensor, k: Tensor, v: Tensor, out: Tensor, queries: int) -> Tensor:
    """Fill `out`, which has the shape of q, with what attention makes of q, k, v -> l of each query, fp32.

    Here and in `attend_backward` all are bf16, of the shapes of `blocked_attention`, with the elements of a head
    neighbours in memory.
    """
    logs = torch.empty(q.shape[:3])
    way = attention_in_tiles if attention_in_tiles.fits((q, k, v, out), queries) else attention_in_blocks
    way.attend(q, k, v, out, logs, queries)
    return logs


def attend_backward(
    inputs: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    logs: Tensor,
    grad: Tensor,
    grads: tuple[Tensor, Tensor, Tensor],
    queries: int,
) -> None:
    """Fill `grads`, of q, k, v, from the gradient by `out`, which `attend` made of these, and the logs it returned."""
    tensors = *inputs, out, grad, *grads
    if attention_in_tiles.fits(tensors, queries):
        attention_in_tiles.attend_backward(tensors, logs, queries)
    else:
        attention_in_blocks.attend_backward(inputs, logs, grad, grads, queries)


def sizes_of_blocks(q: Tensor, k: Tensor, v: Tensor) -> list[int]:
    """How many queries a block may well have, the usual number first."""
    tiles = attention_in_tiles.SIZES if attention_in_tiles.fits((q, k, v), 0) else ()
    blocks = [size for size in attention_in_blocks.SIZES if size < 2 * q.shape[2]]
    return [*tiles, *blocks] or [attention_in_blocks.QUERIES]


def _side_by_side(x: Tensor) -> Tensor:
    """An empty tensor of the shape (batch, heads, seq, head_dim) in which the heads of a position are neighbours."""
    batch, heads, seq, head_dim = x.shape
    return torch.empty(batch, seq, heads, head_dim, dtype=x.dtype).transpose(1, 2)
