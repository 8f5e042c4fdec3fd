"""Causal attention for bf16 tensors, one block of scores at a time (FlashAttention; Dao et al., 2022).

    S = Q Kᵀ,   P = softmax(s · S) under the causal mask,   O = P V        with s = 1 / sqrt(head_dim)

A block of queries reads the keys up to its own end, so most of the masked half of the scores is never computed. The
scores of a block are used while they are in cache and then dropped, so memory grows linearly with the context length,
not quadratically. For the backward pass only one value per query is saved, lse = ln Σ exp(s · S), from which P is
recomputed.

There are two implementations: tiles multiplied by the processor's bf16 dot products (`attention_tiles`) where it has
them, and larger blocks multiplied by torch (`attention_blocks`), which is faster for large heads where torch uses AMX.
The choice and the block sizes depend only on shapes and the processor, so the same command always rounds the same way.
"""

from typing import Any

import torch
from torch import Tensor

from llamita.jit.tiles import has_amx
from llamita.ops.cpu import attention_blocks, attention_tiles
from llamita.ops.cpu.launch import once_differentiable

LARGE_HEAD = 1 << 13
"""Elements of a head, seq · head_dim, above which torch's matrix products with AMX are faster than the tiles."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q · kᵀ / sqrt(head_dim)) · v under the causal mask; all bf16.

    q (batch, heads, seq, head_dim); k, v (batch, kv_heads, seq, head_dim), where kv_heads divides heads -> the shape of
    q, in memory order (batch, seq, heads, head_dim), so that `transpose(1, 2).flatten(2)` copies nothing.
    """
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    return _Attention.apply(q, k, v)  # type: ignore[return-value]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, logsumexp = _empty_heads_last(q), torch.empty(q.shape[:3])
        implementation = attention_tiles if _use_tiles((q, k, v, out)) else attention_blocks
        implementation.forward(q, k, v, out, logsumexp)
        ctx.save_for_backward(q, k, v, out, logsumexp)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, out, logsumexp = ctx.saved_tensors
        grad = grad_outputs[0] if grad_outputs[0].stride(-1) == 1 else grad_outputs[0].contiguous()
        d_q, d_k, d_v = _empty_heads_last(q), _empty_heads_last(k), _empty_heads_last(v)
        if _use_tiles(tensors := (q, k, v, out, grad, d_q, d_k, d_v)):
            attention_tiles.backward(tensors, logsumexp)
        else:
            attention_blocks.backward((q, k, v), logsumexp, grad, (d_q, d_k, d_v))
        return d_q, d_k, d_v


def _use_tiles(tensors: tuple[Tensor, ...]) -> bool:
    """Whether to dispatch to the tiles; the first tensor is q."""
    seq, head_dim = tensors[0].shape[2:]
    return attention_tiles.supports(tensors) and not (seq * head_dim > LARGE_HEAD and has_amx())


def _empty_heads_last(x: Tensor) -> Tensor:
    """An uninitialized (batch, heads, seq, head_dim) in memory order (batch, seq, heads, head_dim)."""
    batch, heads, seq, head_dim = x.shape
    return torch.empty(batch, seq, heads, head_dim, dtype=x.dtype).transpose(1, 2)
