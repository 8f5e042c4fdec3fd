"""`nn.Linear`, computed by `ops.linear`."""

from torch import Tensor, nn

from llamita import ops


class Linear(nn.Linear):
    """y = x · weightᵀ + bias. Can be replaced by a plain `nn.Linear` or any other module."""

    def forward(self, input: Tensor) -> Tensor:
        """input (..., in_features) -> (..., out_features)."""
        return ops.linear(input, self.weight, self.bias)
