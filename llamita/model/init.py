"""Initial weights, keyed by parameter name: the same on every device and however a model is sharded."""

import math

import torch
from torch import Tensor, nn

from llamita.model.attention import Attention
from llamita.randomness import key

ROWS_PER_BLOCK = 1024
RESIDUAL_OUTPUTS = ("o_proj.weight", "down_proj.weight")
COPYING_STRENGTH = 2.0


def initialize(model: nn.Module, num_layers: int, seed: int) -> None:
    """Draw every matrix from N(0, std²), set every gain to one and every bias to zero, in place.

    std is 1/sqrt(inputs), so that what comes out is as large as what goes in (LeCun et al., 1998). GPT-2's 0.02 is
    about that for its widths; in a narrow model it makes queries and keys so small that copying is learned late or
    not at all. The two matrices of a block that write to the residual stream are scaled down by sqrt(2 · num_layers),
    as in GPT-2 (Radford et al., 2019), so that its variance does not grow with depth. Embeddings, which are looked up,
    count as matrices that read hidden_size numbers: so a learned position is as large as a token.

    A model on the meta device, which has shapes but no values, is left as it is.
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


def let_heads_copy(attention: Attention) -> None:
    """Set o_proj to 2 · v_projᵀ, head by head and in place: what a head hands on is what it saw.

    Then a word that is attended to raises its own probability where it is attended from, from the first step on, and
    what is left to learn is where to look. Drawn at random, v_proj and o_proj have to become each other's inverse
    first, for every word anew, and a small model learns few words in time. (In the
    spirit of Trockman & Kolter, 2023, who begin with products of these matrices that are near the identity.)
    """
    values = attention.v_proj.weight.unflatten(0, (-1, attention.head_dim))  # (kv_heads, head_dim, hidden)
    queries_a_value = attention.o_proj.in_features // attention.v_proj.out_features
    with torch.no_grad():
        attention.o_proj.weight.copy_(COPYING_STRENGTH * values.repeat_interleave(queries_a_value, 0).flatten(0, 1).T)


def normal(shape: tuple[int, ...], std: float, seed: int, name: str) -> Tensor:
    """fp32 (rows, columns) ~ N(0, std²) on the CPU; each block of rows has a key, so a shard draws only its own."""
    blocks = []
    for first in range(0, shape[0], ROWS_PER_BLOCK):
        generator = torch.Generator().manual_seed(key(seed, "init", name, first))
        rows = min(ROWS_PER_BLOCK, shape[0] - first)
        blocks.append(torch.empty(rows, *shape[1:]).normal_(0.0, std, generator=generator))
    return torch.cat(blocks)
