"""Feed-forward layers: gated, as in Llama, or plain."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import gelu, relu

from llamita import ops
from llamita.config import ModelConfig
from llamita.model.linear import Linear


class SwiGLU(nn.Module):
    """A gated feed-forward layer: down(silu(gate(x)) · up(x)) (Shazeer, 2020).

    It has three matrices, not two: an intermediate size of 8/3 · hidden matches 4 · hidden in a plain layer.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, bias: bool = False):
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size, bias=bias)
        self.up_proj = Linear(hidden_size, intermediate_size, bias=bias)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., hidden) -> (..., hidden)."""
        return self.down_proj(ops.swiglu(self.gate_proj(x), self.up_proj(x)))


class FeedForward(nn.Module):
    """The plain feed-forward layer: down(activation(up(x))) (Vaswani et al., 2017)."""

    def __init__(
        self, hidden_size: int, intermediate_size: int, activation: Callable[[Tensor], Tensor], bias: bool = False
    ):
        super().__init__()
        self.up_proj = Linear(hidden_size, intermediate_size, bias=bias)
        self.activation = activation
        self.down_proj = Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., hidden) -> (..., hidden)."""
        return self.down_proj(self.activation(self.up_proj(x)))


def tanh_gelu(x: Tensor) -> Tensor:
    """x/2 · (1 + tanh(sqrt(2/π) · (x + 0.044715 x³))), GPT-2's form of x · Φ(x) (Hendrycks & Gimpel, 2016)."""
    return gelu(x, approximate="tanh")


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0)² (So et al., 2021)."""
    return relu(x).square()


def choose_feed_forward(config: ModelConfig) -> nn.Module:
    """The feed-forward layer selected by `config.mlp`."""
    sizes = config.hidden_size, config.intermediate_size
    match config.mlp:
        case "swiglu":
            return SwiGLU(*sizes, config.bias)
        case "gelu":
            return FeedForward(*sizes, tanh_gelu, config.bias)
        case "relu2":
            return FeedForward(*sizes, squared_relu, config.bias)
