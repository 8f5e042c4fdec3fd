"""RMSNorm."""

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Divide each vector by its root mean square, then multiply by a learned gain (Zhang & Sennrich, 2019).

        y = x / sqrt(mean(x²) + eps) · weight

    Unlike LayerNorm it neither centres nor shifts. The statistics are computed in fp32 whatever the type of x.
    """

    def __init__(self, size: int, eps: float = 1e-5):
        """`size`: length of the last dimension. `eps`: added to the mean square, against division by zero."""
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., size) -> the same shape; the type is that of x times the gain."""
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return normed.to(x.dtype) * self.weight
