"""Weight initialization, keyed by parameter name: the same on every device and for any sharding."""

import math

import torch
from torch import Tensor, nn

from llamita.model.attention import Attention
from llamita.randomness import key

ROWS_PER_BLOCK = 1024
RESIDUAL_OUTPUTS = ("o_proj.weight", "down_proj.weight")
COPY_GAIN = 2.0


def initialize(model: nn.Module, num_layers: int, seed: int) -> None:
    """Sample every matrix from N(0, std²), set every gain to one and every bias to zero, in place.

    std is 1/sqrt(fan_in), which preserves the scale of activations (LeCun et al., 1998). GPT-2's 0.02 is about that at
    its widths; in a narrow model it makes queries and keys so small that copying is learned late or never. The two
    matrices of a block that write to the residual stream are scaled down by sqrt(2 · num_layers), as in GPT-2 (Radford
    et al., 2019), so that its variance does not grow with depth. Embeddings count as matrices with a fan-in of
    hidden_size, so learned positions have the same scale as tokens.

    A model on the meta device, which has shapes but no values, is left unchanged.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.is_meta:
                continue
            if parameter.dim() < 2:
                parameter.fill_(0.0 if name.endswith(".bias") else 1.0)
            else:
                scale = 1 / math.sqrt(2 * num_layers) if name.endswith(RESIDUAL_OUTPUTS) else 1.0
                std = scale / math.sqrt(parameter.shape[1])
                parameter.copy_(normal(tuple(parameter.shape), std, seed, name))


def init_copy_heads(attention: Attention) -> None:
    """Set o_proj to 2 · v_projᵀ, head by head and in place, so that each head outputs what it attends to.

    Attending to a token then raises its logit from step 0, and the model only has to learn where to attend.
    With random initialization, v_proj and o_proj first have to become each other's inverse, separately for every token,
    which a small model learns for few tokens in time. (In the spirit of Trockman & Kolter, 2023, who initialize these
    products close to the identity.)
    """
    values = attention.v_proj.weight.unflatten(0, (-1, attention.head_dim))  # (kv_heads, head_dim, hidden)
    group_size = attention.o_proj.in_features // attention.v_proj.out_features  # query heads per key-value head
    with torch.no_grad():
        attention.o_proj.weight.copy_(COPY_GAIN * values.repeat_interleave(group_size, 0).flatten(0, 1).T)


def normal(shape: tuple[int, ...], std: float, seed: int, name: str) -> Tensor:
    """fp32 (rows, columns) ~ N(0, std²) on the CPU, with a key per block of rows, so that shards sample only theirs."""
    blocks = []
    for first in range(0, shape[0], ROWS_PER_BLOCK):
        generator = torch.Generator().manual_seed(key(seed, "init", name, first))
        rows = min(ROWS_PER_BLOCK, shape[0] - first)
        blocks.append(torch.empty(rows, *shape[1:]).normal_(0.0, std, generator=generator))
    return torch.cat(blocks)
