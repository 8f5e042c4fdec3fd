"""The best model for a budget: of all widths of the ladder's shape, the one with the lowest predicted loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llamita.config import RunConfig
from llamita.experiments.scaling.ladder import Size, Text, size_of
from llamita.experiments.scaling.law import ScalingLaw, interval

NARROWEST, WIDTH_MULTIPLE = 32, 32
STEPS_PER_DOUBLING = 4
FEWEST_TOKENS_PER_PARAMETER = 0.1
"""Models with fewer are never the best ones: the search ends there."""


@dataclass(frozen=True)
class Allocation:
    """A model and its tokens, for a budget.

    Attributes:
        width, size: the model.
        tokens: that the budget leaves for it.
        loss: predicted, in nats per token; `loss_interval` is its 95 % bootstrap interval.
        parameters_interval: that of the best model's parameters.
    """

    width: int
    size: Size
    tokens: float
    loss: float
    loss_interval: tuple[float, float]
    parameters_interval: tuple[float, float]


@dataclass(frozen=True)
class Candidates:
    """The models that could spend a budget of `flops`, at least one token per ten parameters, smallest first."""

    base: RunConfig
    text: Text
    flops: float

    @cached_property
    def sizes(self) -> dict[int, Size]:
        """Width -> model."""
        found: dict[int, Size] = {}
        for step in range(1000):
            width = WIDTH_MULTIPLE * round(NARROWEST * 2 ** (step / STEPS_PER_DOUBLING) / WIDTH_MULTIPLE)
            if width in found:
                continue
            size = size_of(self.base, self.text, width)
            if found and self.flops / size.flops_per_token < FEWEST_TOKENS_PER_PARAMETER * size.parameters:
                break
            found[width] = size
        return found

    def best(self, law: ScalingLaw, laws: Sequence[ScalingLaw], most_tokens: float = math.inf) -> Allocation:
        """The one with the lowest loss by `law`, with intervals by the bootstrapped `laws`.

        `most_tokens`: of training; where all models would need more, the largest.
        """
        N = np.array([size.parameters for size in self.sizes.values()], dtype=float)
        D = self.flops / np.array([size.flops_per_token for size in self.sizes.values()])
        allowed = most_tokens >= D
        allowed[-1] |= not allowed.any()
        losses = np.array([np.where(allowed, each.loss(N, D), np.inf) for each in (law, *laws)])  # (laws, sizes)
        best = losses.argmin(axis=1)
        width = list(self.sizes)[best[0]]
        return Allocation(
            width,
            self.sizes[width],
            float(D[best[0]]),
            float(losses[0, best[0]]),
            interval(losses[:, best[0]]),
            interval(N[best]),
        )
