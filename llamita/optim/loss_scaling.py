"""Loss scaling: what lets fp16, whose smallest number is 6e-8, hold the gradients of a training run.

Dynamic loss scaling (Micikevicius et al., 2018): the loss is multiplied by a large factor before the backward pass, and
the gradients are divided by it. Where they overflow, the update is left out and the factor halved; after many updates
without overflow it is doubled.
"""

from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer


class Scaling(Protocol):
    """What the loss is multiplied by, and what becomes of the update."""

    scale: float

    def unscale_(self, params: Iterable[nn.Parameter]) -> None:
        """Divide the gradients by the scale, in place."""
        ...

    def step(self, optimizer: Optimizer, norm: Tensor) -> bool:
        """Update the weights, or leave that out -> whether they were updated. `norm` (): of the unscaled gradients."""
        ...

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint has to hold."""
        ...


class NoScaling:
    """For precisions with the range of fp32: every update is made."""

    scale = 1.0

    def unscale_(self, params: Iterable[nn.Parameter]) -> None:
        """Nothing was scaled."""

    def step(self, optimizer: Optimizer, norm: Tensor) -> bool:
        """Update the weights."""
        optimizer.step()
        return True

    def state(self) -> None:
        """Nothing to save."""


class DynamicLossScaling:
    """The scale and its rule; given the same overflows, it takes the course of `torch.amp.GradScaler`.

    `growth_interval` updates in a row without overflow double the scale, one overflow halves it.
    """

    def __init__(self, scale: float = 65536.0, growth_interval: int = 2000, good_steps: int = 0):
        self.scale, self.growth_interval, self.good_steps = scale, growth_interval, good_steps

    def unscale_(self, params: Iterable[nn.Parameter]) -> None:
        """Divide the gradients by the scale, a power of two: exactly."""
        for parameter in params:
            if parameter.grad is not None:
                parameter.grad.mul_(1 / self.scale)

    def step(self, optimizer: Optimizer, norm: Tensor) -> bool:
        """Update the weights unless a gradient overflowed, as the norm shows; reading it waits for the device."""
        finite = bool(norm.isfinite())
        if finite:
            optimizer.step()
        self._update(finite)
        return finite

    def state(self) -> dict[str, float]:
        """What `DynamicLossScaling(**state)` goes on from."""
        return {"scale": self.scale, "growth_interval": self.growth_interval, "good_steps": self.good_steps}

    def _update(self, finite: bool) -> None:
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.scale /= 2
        elif self.good_steps == self.growth_interval:
            self.scale, self.good_steps = self.scale * 2, 0
