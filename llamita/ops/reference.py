"""To change an operation, edit the model's call of it in `model/`, or edit it here and run with `--kernels plain`.

Each function defines one operation in plain torch, with its formula and paper. `ops/__init__.py` dispatches between
these and fused kernels, which are tested against them. Under autocast, matrix products run in its dtype, and their
inputs are rounded to it once, here.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from llamita.ops.backend import autocast_dtype
from llamita.targets import IGNORED

Reduction = Literal["mean", "sum", "none"]
CHUNK = 1024  # tokens whose logits exist at the same time


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias: x (..., in), weight (out, in), bias (out,) -> (..., out)."""
    return functional.linear(x, weight, bias)


def rms_norm(x: Tensor, weight: Tensor, eps: float, keep_dtype: bool = False) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight over the last dimension (Zhang & Sennrich, 2019); statistics in fp32.

    x (..., size), weight (size,) -> the shape of x. The result feeds matrix products, so under autocast it has their
    dtype; with `keep_dtype` it has that of x · weight, as a residual stream needs.
    """
    x_fp32 = x.float()
    normed = x_fp32 * torch.rsqrt(x_fp32.square().mean(dim=-1, keepdim=True) + eps)
    return _cast_for_matmul(normed.to(x.dtype) * weight, keep_dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, keep_dtype: bool = False) -> Tensor:
    """(x - mean(x)) / sqrt(var(x) + eps) · weight + bias over the last dimension (Ba et al., 2016); shapes as
    `rms_norm`."""
    normed = functional.layer_norm(x.float(), weight.shape, eps=eps)
    return _cast_for_matmul(normed.to(x.dtype) * weight + bias, keep_dtype)


def rope(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
    """Rotate the pairs (i, head_dim / 2 + i) of x by the angles of their positions (RoFormer; Su et al., 2021).

        (a, b) -> (a · cos - b · sin, b · cos + a · sin)

    x (batch, heads, seq, head_dim); cos, sin (max_seq_len, head_dim / 2) fp32; positions (seq,) or (batch, seq) int64.
    """
    cos, sin = cos[positions], sin[positions]  # (seq, half) or (batch, seq, half)
    if positions.dim() == 2:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # (batch, 1, seq, half): the same for all heads
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up, where silu(x) = x / (1 + e^-x) (Shazeer, 2020); gate and up have one shape."""
    return functional.silu(gate) * up


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, lengths: Sequence[int] | None = None
) -> Tensor:
    """softmax(q · kᵀ / sqrt(head_dim)) · v (Vaswani et al., 2017); `mask` is True where a query attends to a key.

    q (batch, heads, seq, head_dim); k, v (batch, kv_heads, keys, head_dim), where kv_heads divides heads and
    consecutive query heads share one (GQA; Ainslie et al., 2023); mask (batch, 1, seq, keys) bool, or None: causal, the
    last query at the last key. lengths: row i reads its first lengths[i] keys; None: all.
    """
    if lengths is not None:
        return torch.cat([attention(*row) for row in rows_of_own_length(q, k, v, mask, lengths)])
    if q.is_cpu and q.dtype in (torch.bfloat16, torch.float16):
        # The backward pass of torch 2.13's CPU kernel is several times slower in bf16 than in fp32.
        with torch.autocast("cpu", enabled=False):
            return _sdpa(q.float(), k.float(), v.float(), mask).to(q.dtype)
    return _sdpa(q, k, v, mask)


def rows_of_own_length(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, lengths: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """The arguments of `attention` for each row alone, a batch of 1 with the first lengths[row] keys."""
    for row, length in enumerate(lengths):
        own = slice(row, row + 1)
        row_mask = None if mask is None else mask[own, ..., :length]
        yield q[own], k[own, :, :length], v[own, :, :length], row_mask


def cross_entropy(logits: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """-ln softmax(logits)[target], in nats, computed in fp32.

    logits (..., vocab_size), targets (...) int64; targets of -100 are ignored. `reduction`: "mean" over the targets
    that are not ignored, their "sum", or "none": one value per target, 0 where ignored. A mean over no targets is NaN.
    """
    counted = targets != IGNORED
    logits = logits.float()
    logits = logits - logits.detach().amax(dim=-1, keepdim=True)  # softmax is invariant to it; rounding is not
    target_logits = logits.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    losses = torch.where(counted, torch.logsumexp(logits, dim=-1) - target_logits, 0.0)  # (...)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / counted.sum()


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """`cross_entropy(hidden · weightᵀ, targets, "sum")` -> () fp32.

    hidden (tokens, in), weight (vocab_size, in), targets (tokens,). Logits are computed for one chunk of tokens at a
    time, and recomputed in the backward pass (activation checkpointing).
    """
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for first in range(0, len(hidden), CHUNK):
        chunk = slice(first, first + CHUNK)
        arguments = hidden[chunk], weight, targets[chunk]
        if len(hidden) <= CHUNK or torch._C._are_functorch_transforms_active():  # which do not support checkpointing
            total = total + _summed_loss(*arguments)
        else:
            total = total + checkpoint(_summed_loss, *arguments, use_reentrant=False, preserve_rng_state=False)
    return total


def _summed_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(linear(hidden, weight), targets, "sum")


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    grouped, seq, keys = q.shape[1] != k.shape[1], q.shape[2], k.shape[2]
    is_causal = mask is None and seq == keys  # torch's flag puts the first query, not the last one, at the edge
    if mask is None and 1 < seq < keys:
        mask = torch.ones(seq, keys, dtype=torch.bool, device=q.device).tril(keys - seq)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=grouped)


def _cast_for_matmul(x: Tensor, keep_dtype: bool) -> Tensor:
    """x in autocast's dtype: cast once here, not once for each matrix product that reads it."""
    dtype = None if keep_dtype else autocast_dtype(x)
    return x if dtype is None else x.to(dtype)
