"""Loss scaling, so that gradients do not underflow in fp16, whose smallest value is 6e-8.

Dynamic loss scaling (Micikevicius et al., 2018): the loss is multiplied by a large factor before the backward pass, and
the gradients are divided by it. If they overflow, the update is skipped and the factor halved; after many updates
without overflow it is doubled.
"""

from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer


class Scaling(Protocol):
    """The factor of the loss, and whether an update is skipped."""

    scale: float

    def unscale_(self, params: Iterable[nn.Parameter]) -> None:
        """Divide the gradients by the scale, in place."""
        ...

    def step(self, optimizer: Optimizer, norm: Tensor) -> bool:
        """Update the weights or skip the update -> whether they were updated. `norm` (): of the unscaled gradients."""
        ...

    def state(self) -> dict[str, Any] | None:
        """State to save in a checkpoint."""
        ...


class NoScaling:
    """No loss scaling, for precisions with the range of fp32: no update is skipped."""

    scale = 1.0

    def unscale_(self, params: Iterable[nn.Parameter]) -> None:
        """Nothing to do."""

    def step(self, optimizer: Optimizer, norm: Tensor) -> bool:
        """Update the weights."""
        optimizer.step()
        return True

    def state(self) -> None:
        """Nothing to save."""


class DynamicLossScaling:
    """A dynamic scale; given the same overflows, it changes as that of `torch.amp.GradScaler`.

    `growth_interval` consecutive updates without overflow double the scale, one overflow halves it.
    """

    def __init__(self, scale: float = 65536.0, growth_interval: int = 2000, good_steps: int = 0):
        self.scale, self.growth_interval, self.good_steps = scale, growth_interval, good_steps

    def unscale_(self, params: Iterable[nn.Parameter]) -> None:
        """Divide the gradients by the scale, exactly, since it is a power of two."""
        for parameter in params:
            if parameter.grad is not None:
                parameter.grad.mul_(1 / self.scale)

    def step(self, optimizer: Optimizer, norm: Tensor) -> bool:
        """Update the weights unless the norm shows an overflow. Synchronizes with the device."""
        finite = bool(norm.isfinite())
        if finite:
            optimizer.step()
        self._update(finite)
        return finite

    def state(self) -> dict[str, float]:
        """`DynamicLossScaling(**state)` restores it."""
        return {"scale": self.scale, "growth_interval": self.growth_interval, "good_steps": self.good_steps}

    def _update(self, finite: bool) -> None:
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.scale /= 2
        elif self.good_steps == self.growth_interval:
            self.scale, self.good_steps = self.scale * 2, 0
