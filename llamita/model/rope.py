"""Rotary position embedding."""

import torch
from torch import Tensor, nn

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
        self.pairs = config.head_dim // 2
        # fp32 even when the model is made in another type: in bf16 position 1,001 equals position 1,000.
        exponents = torch.arange(self.pairs, dtype=torch.float32) * 2 / config.head_dim
        angles = torch.outer(torch.arange(config.max_seq_len).float(), config.rope_theta**-exponents)
        self.register_buffer("cos", angles.cos(), persistent=False)  # (max_seq_len, head_dim / 2)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """x (batch, heads, seq, head_dim), positions (seq,) or (batch, seq) int64 -> x turned, same shape and type."""
        cos, sin = self.cos[positions], self.sin[positions]  # (seq, half) or (batch, seq, half)
        if positions.dim() == 2:
            cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # (batch, 1, seq, half): the same for all heads
        first, second = x.split(self.pairs, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
