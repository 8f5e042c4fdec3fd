"""How a model knows where a token stands: rotary positions, learned ones, or none.

Rotary positions act on queries and keys (`rotate`), learned ones on the embedding (`add`). Each kind has its class for
both places; the class of the other place lets through what it gets.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from llamita import ops
from llamita.config import ModelConfig


class RotaryEmbedding(nn.Module):
    """Turn queries and keys by an angle that grows with their position (RoFormer; Su et al., 2021).

    Element i of the first half of a head and element i of its second half form a pair, which at position p is turned
    by p · theta^(-2i / head_dim). The product of a query at p and a key at q then depends on p - q only: attention
    sees distances. (This half-split layout is Hugging Face's; the paper pairs neighbours. Same mathematics, other
    order of the rows in the projections.)
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        # fp32 even when the model is made in another type: in bf16 position 1,001 equals position 1,000.
        angles = torch.outer(torch.arange(config.max_seq_len).float(), frequencies(config))
        self.register_buffer("cos", angles.cos(), persistent=False)  # (max_seq_len, head_dim / 2)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """x (batch, heads, seq, head_dim), positions (seq,) or (batch, seq) int64 -> x turned, same shape and type."""
        return ops.rope(x, self.cos, self.sin, positions)


def frequencies(config: ModelConfig) -> Tensor:
    """(head_dim / 2,) fp32: the angle of each pair, in radians a position, scaled as in Llama 3 (Meta, 2024).

    Pairs that turn at most `rope_low_freq_factor` times within the original context turn `rope_scaling_factor` times
    more slowly; those that turn at least `rope_high_freq_factor` times are left; between them, something between.
    """
    # Step by step as others compute it: at position 131,072 an angle shows the last bit of its frequency.
    exponents = torch.arange(0, config.head_dim, 2).float() / config.head_dim
    plain = 1.0 / config.rope_theta**exponents
    if config.rope_scaling_factor == 1:
        return plain
    low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
    turns = config.rope_original_max_seq_len / (2 * math.pi / plain)  # within the original context
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * plain / config.rope_scaling_factor + kept * plain


class NoRotation(nn.Module):
    """In place of rotary positions, where there are others or none."""

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Hand back what came in."""
        return x


class LearnedPositions(nn.Module):
    """A learned vector for each position, added to the token embedding (Radford et al., 2018)."""

    def __init__(self, max_seq_len: int, hidden_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_seq_len, hidden_size))

    def add(self, x: Tensor, positions: Tensor) -> Tensor:
        """x (batch, seq, hidden), positions (seq,) or (batch, seq) int64 -> x with its positions, the same shape."""
        return x + embedding(positions.clamp(min=0), self.weight)  # position -1 is padding: whatever it gets is unseen


class NoPositions(nn.Module):
    """In place of learned positions, where there are others or none (Kazemnejad et al., 2023)."""

    def add(self, x: Tensor, positions: Tensor) -> Tensor:
        """Hand back what came in."""
        return x


Rotation = RotaryEmbedding | NoRotation


def choose_rotation(config: ModelConfig) -> Rotation:
    """What turns queries and keys under `config.position`."""
    return RotaryEmbedding(config) if config.position == "rope" else NoRotation()


def choose_embedding(config: ModelConfig) -> LearnedPositions | NoPositions:
    """What is added to the token embedding under `config.position`."""
    return LearnedPositions(config.max_seq_len, config.hidden_size) if config.position == "learned" else NoPositions()
