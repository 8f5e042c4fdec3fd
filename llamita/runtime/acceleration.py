"""Put compiled kernels in the place of the plain functions that a model computes with."""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

from llamita.model import Attention, Llama, LMHead, RMSNorm, RotaryEmbedding, SwiGLU
from llamita.ops.cpu.attention import blocked_attention
from llamita.ops.cpu.cross_entropy import linear_cross_entropy
from llamita.ops.cpu.gate import gated_silu
from llamita.ops.cpu.norm import rms_norm
from llamita.ops.cpu.rotation import rotate
from llamita.runtime.joined_layers import join_layers

Function = Callable[..., Tensor]


def accelerate(model: Llama, attention_block: int = 0, head_block: int = 0) -> None:
    """Let the parts of `model` compute with the kernels wherever they get bf16 numbers, as under autocast.

    attention_block, head_block: how many queries, and how many tokens in the head, are computed at once; 0 leaves it
    to the kernels.
    """
    join_layers(model, attention_block)
    pre_norm = model.config.norm_position == "pre"  # a post-norm makes the residual stream itself, which stays in fp32
    for module in model.modules():
        if isinstance(module, Attention):
            module.kernel = _without_mask(module.kernel, attention_block)
        elif isinstance(module, RMSNorm) and pre_norm:
            module.kernel = _under_autocast(rms_norm, module.kernel)
        elif isinstance(module, SwiGLU):
            module.kernel = _of_bf16(gated_silu, module.kernel)
        elif isinstance(module, RotaryEmbedding):
            module.kernel = _of_bf16(rotate, module.kernel)
        elif isinstance(module, LMHead):
            module.kernel = _of_bf16(_in_slices(head_block), module.kernel)


def _of_bf16(fast: Function, plain: Function) -> Function:
    @wraps(fast)
    def chosen(x: Tensor, *others: object) -> Tensor:
        return (fast if x.dtype == torch.bfloat16 else plain)(x, *others)

    return chosen


def _under_autocast(fast: Function, plain: Function) -> Function:
    """For a function of fp32 numbers whose result is bf16, as the products behind it want it."""

    @wraps(fast)
    def chosen(x: Tensor, *others: object) -> Tensor:
        return (fast if x.dtype == torch.float32 and torch.is_autocast_enabled("cpu") else plain)(x, *others)

    return chosen


def _in_slices(tokens: int) -> Function:
    @wraps(linear_cross_entropy)
    def sliced(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, weight, targets, tokens)

    return sliced


def _without_mask(plain: Function, queries: int) -> Function:
    def chosen(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        fits = mask is None and q.dtype == torch.bfloat16
        return blocked_attention(q, k, v, queries) if fits else plain(q, k, v, mask)

    return chosen
