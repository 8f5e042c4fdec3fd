"""What keeps activations in range: RMSNorm, LayerNorm, or nothing."""

import torch
from torch import Tensor, nn

from llamita import ops
from llamita.config import ModelConfig


class RMSNorm(nn.Module):
    """Divide each vector by its root mean square, then multiply by a learned gain (Zhang & Sennrich, 2019).

        y = x / sqrt(mean(x²) + eps) · weight

    Unlike LayerNorm it neither centres nor shifts. The statistics are computed in fp32 whatever the type of x.
    """

    def __init__(self, size: int, eps: float = 1e-5, *, in_stream: bool = False):
        """`size`: length of the last dimension. `eps`: added to the mean square, against division by zero.

        `in_stream`: the result is the residual stream itself, as in post-norm, not what a matrix product reads.
        """
        super().__init__()
        self.eps, self.in_stream = eps, in_stream
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., size) -> the same shape."""
        return ops.rms_norm(x, self.weight, self.eps, keep_dtype=self.in_stream)


class LayerNorm(nn.Module):
    """Centre each vector, divide it by its standard deviation, multiply by a gain and shift it (Ba et al., 2016).

        y = (x - mean(x)) / sqrt(var(x) + eps) · weight + bias

    The statistics are computed in fp32 whatever the type of x.
    """

    bias: Tensor

    def __init__(self, size: int, eps: float = 1e-5, bias: bool = True, *, in_stream: bool = False):
        """`size`: length of the last dimension. `eps`: added to the variance. Without `bias` the shift stays zero.

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
    """The norm of the residual stream that `config.norm` names."""
    in_stream = config.norm_position == "post"
    match config.norm:
        case "rms":
            return RMSNorm(config.hidden_size, config.norm_eps, in_stream=in_stream)
        case "layer":
            return LayerNorm(config.hidden_size, config.norm_eps, config.bias, in_stream=in_stream)
        case "none":
            return nn.Identity()
