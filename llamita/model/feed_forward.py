"""The feed-forward layer."""

from torch import Tensor, nn
from torch.nn.functional import silu


class SwiGLU(nn.Module):
    """A gated feed-forward layer: down(silu(gate(x)) · up(x)) (Shazeer, 2020).

    Three matrices where a plain layer has two; an intermediate size of 8/3 hidden makes the parameters equal.
    """

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., hidden) -> (..., hidden)."""
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))
