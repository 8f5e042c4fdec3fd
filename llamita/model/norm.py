"""What keeps activations in range: RMSNorm, LayerNorm, or nothing."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from llamita.config import ModelConfig


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight, over the last dimension; the statistics are fp32 whatever the type of x."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return normed.to(x.dtype) * weight


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
        self.kernel: Callable[[Tensor, Tensor, float], Tensor] = rms_norm

    def forward(self, x: Tensor) -> Tensor:
        """x (..., size) -> the same shape; the type is that of x times the gain."""
        return self.kernel(x, self.weight, self.eps)


class LayerNorm(nn.Module):
    """Centre each vector, divide it by its standard deviation, multiply by a gain and shift it (Ba et al., 2016).

        y = (x - mean(x)) / sqrt(var(x) + eps) · weight + bias

    The statistics are computed in fp32 whatever the type of x.
    """

    bias: Tensor

    def __init__(self, size: int, eps: float = 1e-5, bias: bool = True):
        """`size`: length of the last dimension. `eps`: added to the variance. Without `bias` the shift stays zero."""
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))
        if bias:
            self.bias = nn.Parameter(torch.zeros(size))
        else:
            self.register_buffer("bias", torch.zeros(size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., size) -> the same shape; the type is that of x times the gain."""
        normed = layer_norm(x.float(), self.weight.shape, eps=self.eps)  # centred, of variance one
        return normed.to(x.dtype) * self.weight + self.bias


def choose_norm(config: ModelConfig) -> nn.Module:
    """The norm of the residual stream that `config.norm` names."""
    match config.norm:
        case "rms":
            return RMSNorm(config.hidden_size, config.norm_eps)
        case "layer":
            return LayerNorm(config.hidden_size, config.norm_eps, config.bias)
        case "none":
            return nn.Identity()
