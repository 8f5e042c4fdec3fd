"""Let the layers of a model compute as two pieces each, where they are those of a Llama and nobody looks inside."""

from functools import partial
from types import MethodType
from typing import TypeGuard

import torch
from torch import Tensor, nn

from llamita.model import Attention, Block, Llama, RMSNorm, RotaryEmbedding, SwiGLU
from llamita.model.cache import NO_CACHE, LayerCache, NoCache
from llamita.ops.cpu.attention_layer import attention_layer
from llamita.ops.cpu.feed_forward_layer import feed_forward_layer
from llamita.ops.cpu.flat import lies_flat
from llamita.ops.cpu.launch import has_no_values
from llamita.ops.cpu.rotation import Angles, Heads, rows_of_table


def join_layers(model: Llama, queries: int) -> None:
    """Give each layer of `model` a way to compute that decides, call by call, whether it may be joined.

    `queries`: how many attention computes at once.
    """
    for module in model.modules():
        if isinstance(module, Block):
            module.forward = partial(MethodType(_forward, module), queries)


def _forward(
    block: Block,
    queries: int,
    x: Tensor,
    positions: Tensor,
    mask: Tensor | None = None,
    cache: LayerCache | NoCache = NO_CACHE,
) -> Tensor:
    """What `Block.forward` computes, in as large pieces as can be."""
    attention, feed_forward = block.self_attn, block.mlp
    first, second = block.input_layernorm, block.post_attention_layernorm
    may_join = _learns_in_bf16(x) and not _drops(block)
    if may_join and mask is None and cache is NO_CACHE and _is_norm(first) and _is_plain_attention(attention):
        heads = _heads(attention, x, positions)
        x = attention_layer(x.contiguous(), first.weight, first.eps, _projections(attention), heads, queries)
    else:
        x = x + block.dropout(attention(first(x), positions, mask, cache))
    if may_join and _is_norm(second) and _is_plain_feed_forward(feed_forward):
        return feed_forward_layer(x.contiguous(), second.weight, second.eps, _matrices(feed_forward))
    return x + block.dropout(feed_forward(second(x)))


def _learns_in_bf16(x: Tensor) -> bool:
    """Without gradients there is nothing to save, and autocast, unlike a layer in one piece, keeps narrowed weights
    from one generated token to the next."""
    learns = torch.is_grad_enabled() and x.dtype == torch.float32 and x.numel() > 0
    return learns and torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def _drops(block: Block) -> bool:
    return block.training and block.dropout.p > 0


def _is_norm(module: nn.Module) -> TypeGuard[RMSNorm]:
    return type(module) is RMSNorm and not _is_watched(module) and _lies_ready(module.weight)


def _is_plain_attention(module: Attention) -> bool:
    parts = module.q_proj, module.k_proj, module.v_proj, module.o_proj
    unnormed = type(module.q_norm) is type(module.k_norm) is nn.Identity
    watched = any(map(_is_watched, (module, module.q_norm, module.k_norm)))
    return unnormed and not watched and all(map(_is_plain_linear, parts))


def _is_plain_feed_forward(module: nn.Module) -> TypeGuard[SwiGLU]:
    if type(module) is not SwiGLU or _is_watched(module):
        return False
    return all(map(_is_plain_linear, (module.gate_proj, module.up_proj, module.down_proj)))


def _is_plain_linear(module: nn.Module) -> bool:
    """Not one that something else was put in the place of, as adapters or other precisions are."""
    return type(module) is nn.Linear and module.bias is None and not _is_watched(module) and _lies_ready(module.weight)


def _is_watched(module: nn.Module) -> bool:
    """Whether somebody asked to be called when this part computes, which it would not do in a larger piece."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _lies_ready(weight: Tensor) -> bool:
    return has_no_values(weight) or lies_flat(weight)


def _projections(attention: Attention) -> tuple[Tensor, ...]:
    parts = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
    return tuple(part.weight for part in parts)


def _matrices(feed_forward: SwiGLU) -> tuple[Tensor, ...]:
    return feed_forward.gate_proj.weight, feed_forward.up_proj.weight, feed_forward.down_proj.weight


def _heads(attention: Attention, x: Tensor, positions: Tensor) -> Heads:
    num_heads, num_kv_heads = (len(part.weight) // attention.head_dim for part in (attention.q_proj, attention.k_proj))
    if not isinstance(rope := attention.rope, RotaryEmbedding):
        return Heads(num_heads, num_kv_heads, attention.head_dim)
    places = rows_of_table(positions, len(rope.cos), x.shape[0], x.shape[1])
    return Heads(num_heads, num_kv_heads, attention.head_dim, Angles(rope.cos, rope.sin, places))
