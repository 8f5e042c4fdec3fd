"""Normalization layers: RMSNorm, LayerNorm, or none."""

import torch
from torch import Tensor, nn

from llamita import ops
from llamita.config import ModelConfig


class RMSNorm(nn.Module):
    """Divide each vector by its root mean square, then multiply by a learned gain (Zhang & Sennrich, 2019).

        y = x / sqrt(mean(x²) + eps) · weight

    Unlike LayerNorm, it neither centers nor shifts. Statistics are computed in fp32 whatever the dtype of x.
    """

    def __init__(self, size: int, eps: float = 1e-5, *, in_stream: bool = False):
        """`size`: length of the last dimension. `eps`: added to the mean square, to avoid division by zero.

        `in_stream`: the output is the residual stream itself (post-norm) rather than the input of a matrix product.
        """
        super().__init__()
        self.eps, self.in_stream = eps, in_stream
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., size) -> the same shape."""
        return ops.rms_norm(x, self.weight, self.eps, keep_dtype=self.in_stream)


class LayerNorm(nn.Module):
    """Center each vector, divide by its standard deviation, multiply by a gain and add a bias (Ba et al., 2016).

        y = (x - mean(x)) / sqrt(var(x) + eps) · weight + bias

    Statistics are computed in fp32 whatever the dtype of x.
    """

    bias: Tensor

    def __init__(self, size: int, eps: float = 1e-5, bias: bool = True, *, in_stream: bool = False):
        """`size`: length of the last dimension. `eps`: added to the variance. `bias`: whether the bias is learned.

        `in_stream`: as for `RMSNorm`.
        """
        super().__init__()
        self.eps, self.in_stream = eps, in_stream
        self.weight = nn.Parameter(torch.ones(size))
        if bias:
            self.bias = nn.Parameter(torch.zeros(size))
        else:
            self.register_buffer("bias", torch.zeros(size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., size) -> the same shape."""
        return ops.layer_norm(x, self.weight, self.bias, self.eps, keep_dtype=self.in_stream)


def choose_norm(config: ModelConfig) -> nn.Module:
    """The norm selected by `config.norm` and `config.norm_position`."""
    in_stream = config.norm_position == "post"
    match config.norm:
        case "rms":
            return RMSNorm(config.hidden_size, config.norm_eps, in_stream=in_stream)
        case "layer":
            return LayerNorm(config.hidden_size, config.norm_eps, config.bias, in_stream=in_stream)
        case "none":
            return nn.Identity()
