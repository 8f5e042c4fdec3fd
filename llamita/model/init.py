"""Initial weights, keyed by parameter name: the same on every device and however a model is sharded."""

import math

import torch
from torch import Tensor, nn

from llamita.randomness import key

ROWS_PER_BLOCK = 1024
RESIDUAL_OUTPUTS = ("o_proj.weight", "down_proj.weight")


def initialize(model: nn.Module, num_layers: int, seed: int) -> None:
    """Draw every matrix from N(0, std²) and set every gain to one, in place.

    std is 1/sqrt(inputs), so that what comes out is as large as what goes in (LeCun et al., 1998). GPT-2's 0.02 is
    about that for its widths; in a narrow model it makes queries and keys so small that copying is learned late or
    not at all. The two matrices of a block that write to the residual stream are scaled down by sqrt(2 · num_layers),
    as in GPT-2 (Radford et al., 2019), so that its variance does not grow with depth.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(1.0)
            else:
                scale = 1 / math.sqrt(2 * num_layers) if name.endswith(RESIDUAL_OUTPUTS) else 1.0
                std = scale / math.sqrt(parameter.shape[1])
                parameter.copy_(normal(tuple(parameter.shape), std, seed, name))


def normal(shape: tuple[int, ...], std: float, seed: int, name: str) -> Tensor:
    """fp32 (rows, columns) ~ N(0, std²) on the CPU; each block of rows has a key, so a shard draws only its own."""
    blocks = []
    for first in range(0, shape[0], ROWS_PER_BLOCK):
        generator = torch.Generator().manual_seed(key(seed, "init", name, first))
        rows = min(ROWS_PER_BLOCK, shape[0] - first)
        blocks.append(torch.empty(rows, *shape[1:]).normal_(0.0, std, generator=generator))
    return torch.cat(blocks)
