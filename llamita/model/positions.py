"""Position encodings: rotary, learned, or none.

Rotary embeddings act on queries and keys (`rotate`), learned ones on the token embedding (`add`). Each of these two
places has a no-op class for configs that do not use it.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from llamita import ops
from llamita.config import ModelConfig


class RotaryEmbedding(nn.Module):
    """Rotate queries and keys by an angle proportional to their position (RoPE; Su et al., 2021).

    Element i of a head's first half and element i of its second half form a pair, which at position p is rotated
    by p · theta^(-2i / head_dim). The dot product of a query at p and a key at q then depends only on p - q: attention
    sees relative positions. (The half-split layout is Hugging Face's; the paper pairs adjacent elements. The
    mathematics is the same, with the rows of q_proj and k_proj permuted.)
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        # fp32 even if the model has another dtype: in bf16, position 1,001 equals position 1,000.
        angles = torch.outer(torch.arange(config.max_seq_len).float(), frequencies(config))
        self.register_buffer("cos", angles.cos(), persistent=False)  # (max_seq_len, head_dim / 2)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """x (batch, heads, seq, head_dim), positions (seq,) or (batch, seq) int64 -> rotated x, same shape, dtype."""
        return ops.rope(x, self.cos, self.sin, positions)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RotaryEmbedding":
        """`model.to(torch.bfloat16)` moves the tables to the device of the model, but leaves them fp32."""

        def move(table: Tensor) -> Tensor:
            moved = fn(table)
            return moved if moved.dtype == table.dtype else table.to(moved.device)

        return super()._apply(move, recurse)


def frequencies(config: ModelConfig) -> Tensor:
    """(head_dim / 2,) fp32: the frequency of each pair, in radians per position, scaled as in Llama 3 (Meta, 2024).

    Pairs with at most `rope_low_freq_factor` turns within the original context are slowed down by
    `rope_scaling_factor`; those with at least `rope_high_freq_factor` turns are unchanged; in between, frequencies are
    interpolated.
    """
    # In the same order of operations as Hugging Face: at position 131,072, the last bit of a frequency matters.
    exponents = torch.arange(0, config.head_dim, 2).float() / config.head_dim
    plain = 1.0 / config.rope_theta**exponents
    if config.rope_scaling_factor == 1:
        return plain
    low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
    turns = config.rope_original_max_seq_len / (2 * math.pi / plain)  # within the original context
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * plain / config.rope_scaling_factor + smooth * plain


class NoRotation(nn.Module):
    """No-op used when `config.position` is not "rope"."""

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Return x unchanged."""
        return x


class LearnedPositions(nn.Module):
    """A learned vector for each position, added to the token embedding (Radford et al., 2018)."""

    def __init__(self, max_seq_len: int, hidden_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_seq_len, hidden_size))

    def add(self, x: Tensor, positions: Tensor) -> Tensor:
        """x (batch, seq, hidden), positions (seq,) or (batch, seq) int64 -> x with its positions, the same shape."""
        return x + embedding(positions.clamp(min=0), self.weight)  # position -1 is padding, never attended to


class NoPositions(nn.Module):
    """No-op used when `config.position` is not "learned" (on "none": Kazemnejad et al., 2023)."""

    def add(self, x: Tensor, positions: Tensor) -> Tensor:
        """Return x unchanged."""
        return x


Rotation = RotaryEmbedding | NoRotation


def choose_rotation(config: ModelConfig) -> Rotation:
    """The rotation of queries and keys selected by `config.position`."""
    return RotaryEmbedding(config) if config.position == "rope" else NoRotation()


def choose_embedding(config: ModelConfig) -> LearnedPositions | NoPositions:
    """The position embedding selected by `config.position`."""
    return LearnedPositions(config.max_seq_len, config.hidden_size) if config.position == "learned" else NoPositions()
