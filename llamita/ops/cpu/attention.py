"""Causal attention of bf16 tensors, which holds one block of its scores at a time.

    S = Q Kᵀ,   P = softmax(s · S) under the causal mask,   O = P V        with s = 1 / sqrt(head_dim)

A block of queries sees the keys up to its own end, so the half of all scores that causality hides is hardly computed.
The scores of a block are made and used while they lie in the cache, so memory grows with the length of the context, not
with its square (FlashAttention; Dao et al., 2022). Kept for the backward pass is one number per query, the logsumexp
l = ln Σ exp(s · S), from which P is computed again.

There are two implementations: tiles multiplied by the processor's bf16 instructions (`attention_tiles`), where it has
them, and larger blocks multiplied by torch (`attention_blocks`), which is faster for large heads where torch's products
use AMX. Which one computes, and in blocks of which size, is a function of shape and processor alone: the same command
rounds the same way every time.
"""

from typing import Any

import torch
from torch import Tensor

from llamita.jit.tiles import has_amx
from llamita.ops.cpu import attention_blocks, attention_tiles
from llamita.ops.cpu.launch import first_order

LARGE_HEAD = 1 << 13
"""Elements of a head, seq x head_dim, above which torch's products by AMX are faster than the tiles."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q · kᵀ / sqrt(head_dim)) · v under the causal mask; all bf16.

    q (batch, heads, seq, head_dim); k, v (batch, kv_heads, seq, head_dim), where kv_heads divides heads -> the shape
    of q, in memory (batch, seq, heads, head_dim), so that `transpose(1, 2).flatten(2)` copies nothing.
    """
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    return _Attention.apply(q, k, v)  # type: ignore[return-value]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, logsumexp = _heads_together(q), torch.empty(q.shape[:3])
        implementation = attention_tiles if _prefers_tiles((q, k, v, out)) else attention_blocks
        implementation.forward(q, k, v, out, logsumexp)
        ctx.save_for_backward(q, k, v, out, logsumexp)
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, out, logsumexp = ctx.saved_tensors
        grad = grad_outputs[0] if grad_outputs[0].stride(-1) == 1 else grad_outputs[0].contiguous()
        d_q, d_k, d_v = _heads_together(q), _heads_together(k), _heads_together(v)
        if _prefers_tiles(tensors := (q, k, v, out, grad, d_q, d_k, d_v)):
            attention_tiles.backward(tensors, logsumexp)
        else:
            attention_blocks.backward((q, k, v), logsumexp, grad, (d_q, d_k, d_v))
        return d_q, d_k, d_v


def _prefers_tiles(tensors: tuple[Tensor, ...]) -> bool:
    """Whether the tiles compute on these tensors, the first of which is q."""
    seq, head_dim = tensors[0].shape[2:]
    return attention_tiles.fits(tensors) and not (seq * head_dim > LARGE_HEAD and has_amx())


def _heads_together(x: Tensor) -> Tensor:
    """An uninitialized tensor of the shape (batch, heads, seq, head_dim), in memory (batch, seq, heads, head_dim)."""
    batch, heads, seq, head_dim = x.shape
    return torch.empty(batch, seq, heads, head_dim, dtype=x.dtype).transpose(1, 2)
