"""The linear layer of the model: torch's, computed by `ops.linear`."""

from torch import Tensor, nn

from llamita import ops


class Linear(nn.Linear):
    """y = x · weightᵀ + bias. A plain `nn.Linear`, or any other module, may stand in its place."""

    def forward(self, input: Tensor) -> Tensor:
        """input (..., in_features) -> (..., out_features)."""
        return ops.linear(input, self.weight, self.bias)
