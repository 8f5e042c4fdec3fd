"""The operations of a Llama. The model calls them by these names.

`reference.py` defines each in plain torch; `cpu/` has fused bf16 kernels of the same functions for the CPU. Each
operation dispatches on its inputs (device, dtype, grad mode) and on `backend`, as torch's own operators do.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from llamita.ops import chunked_loss, cpu, reference
from llamita.ops.backend import autocast_dtype, backend
from llamita.ops.reference import Reduction, cross_entropy, layer_norm

__all__ = [
    "Reduction",
    "attention",
    "backend",
    "cross_entropy",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "rms_norm",
    "rope",
    "swiglu",
]

BF16 = torch.bfloat16


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., in) · weightᵀ (out, in) + bias (out,) -> (..., out)."""
    if _trains_in_bf16(x, weight) and backend.can_fuse(x, weight) and cpu.linear.supports(x, weight, bias):
        return cpu.linear.linear(x, weight, bias)
    return reference.linear(x, weight, bias)


def rms_norm(x: Tensor, weight: Tensor, eps: float, keep_dtype: bool = False) -> Tensor:
    """x (..., size) / sqrt(mean(x²) + eps) · weight (size,) -> the shape of x, as input to matrix products.

    Under autocast the result has autocast's dtype; with `keep_dtype`, as for a residual stream, that of x · weight.
    """
    if not keep_dtype and autocast_dtype(x) == BF16 and backend.can_fuse(x, weight):
        return cpu.norm.rms_norm(x, weight, eps)
    return reference.rms_norm(x, weight, eps, keep_dtype)


def rope(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
    """Rotate x (batch, heads, seq, head_dim) by cos, sin (max_seq_len, head_dim / 2) at its positions, (seq,) or
    (batch, seq) int64 -> the shape and dtype of x."""
    if x.dtype == BF16 and cos.dtype == torch.float32 and backend.can_fuse(x, cos, sin, positions):
        return cpu.rope.rope(x, cos, sin, positions)
    return reference.rope(x, cos, sin, positions)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up; both of one shape -> the same shape."""
    if gate.dtype == up.dtype == BF16 and backend.can_fuse(gate, up):
        return cpu.swiglu.swiglu(gate, up)
    return reference.swiglu(gate, up)


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, lengths: Sequence[int] | None = None
) -> Tensor:
    """softmax(q · kᵀ / sqrt(head_dim)) · v: q (batch, heads, seq, head_dim), k and v (batch, kv_heads, keys, head_dim).

    mask (batch, 1, seq, keys) bool: True where a query may attend to a key. None: causal, the last query at the last
    key. lengths: row i reads its first lengths[i] keys, as in a KV cache. Rows are then computed one by one, so that
    none depends on the length of another, bit for bit. None: all rows read all keys.
    """
    if lengths is not None:
        return torch.cat([attention(*row) for row in reference.rows_of_own_length(q, k, v, mask, lengths)])
    is_causal = mask is None and q.shape[2] == k.shape[2]
    if is_causal and q.dtype == k.dtype == v.dtype == BF16 and backend.can_fuse(q, k, v):
        return cpu.attention.attention(q, k, v)
    return reference.attention(q, k, v, mask)


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """`cross_entropy(hidden · weightᵀ, targets, "sum")` -> () fp32, in nats, without materializing all logits.

    hidden (tokens, in), weight (vocab_size, in), targets (tokens,) int64; targets of -100 are ignored.
    """
    if hidden.dtype == BF16 and backend.can_fuse(hidden, weight, targets):
        return cpu.cross_entropy.linear_cross_entropy(hidden, weight, targets)
    if backend.is_native:
        return chunked_loss.linear_cross_entropy(hidden, weight, targets)
    return reference.linear_cross_entropy(hidden, weight, targets)


def _trains_in_bf16(x: Tensor, weight: Tensor) -> bool:
    """Without gradients nothing is saved, and autocast's cache of cast weights is faster."""
    needs_grad = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return needs_grad and autocast_dtype(x) == BF16
