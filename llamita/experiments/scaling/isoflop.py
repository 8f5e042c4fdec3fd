"""IsoFLOP parabolas: the best model of each budget, without the law's form (Hoffmann et al., 2022, section 3.2).

At a fixed budget of FLOPs, the loss as a function of log N is about a parabola. Its minimum N* is the best model of
that budget; over the budgets, N* follows a power of the FLOPs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST_SIZES = 4
"""Of a parabola: one more than its three coefficients, so that something is left to estimate the noise from."""
RESAMPLES = 200


@dataclass(frozen=True)
class Parabola:
    """L = loss + curvature · (log N - log N*)² at one budget.

    Attributes:
        flops: the budget.
        parameters, loss: N*, and the loss there in nats per token.
        curvature: in nats per token.
        low, high: the 95 % interval of N*.
    """

    flops: float
    parameters: float
    loss: float
    curvature: float
    low: float
    high: float

    def at(self, parameters: np.ndarray) -> np.ndarray:
        """The loss of models of `parameters` at this budget."""
        return self.loss + self.curvature * np.log(np.asarray(parameters) / self.parameters) ** 2


@dataclass(frozen=True)
class PowerLaw:
    """N* = N₀ · (C/C₀)^exponent: at the budget `flops`, C₀, the best model has `parameters`, N₀."""

    flops: float
    parameters: float
    exponent: float

    def at(self, flops: float) -> float:
        """Parameters of the best model of a budget."""
        return self.parameters * (flops / self.flops) ** self.exponent


def fit_parabola(flops: float, N: np.ndarray, L: np.ndarray, seed: int = 0) -> Parabola | None:
    """The parabola of the runs of one budget; N and L are (runs,).

    None where sizes are too few, or the minimum is not between them: then the budget does not show its best model.
    The interval is of a residual bootstrap: residuals are drawn with replacement and added to the fitted losses.
    """
    if len(np.unique(N)) < FEWEST_SIZES:
        return None
    x = np.log(N)
    fitted = np.polyfit(x, L, 2)
    if (center := _minimum(fitted, x)) is None:
        return None
    rng = np.random.default_rng(seed)
    residuals = (L - np.polyval(fitted, x)) * np.sqrt(len(L) / (len(L) - 3))
    samples = (np.polyval(fitted, x) + rng.choice(residuals, len(L)) for _ in range(RESAMPLES))
    centers = [found for sample in samples if (found := _minimum(np.polyfit(x, sample, 2), x)) is not None]
    low, high = np.exp(np.quantile(centers or [center], [0.025, 0.975]))
    return Parabola(flops, float(np.exp(center)), float(np.polyval(fitted, center)), float(fitted[0]), low, high)


def fit_power(parabolas: Sequence[Parabola]) -> PowerLaw | None:
    """The power of the FLOPs that the best sizes follow, by least squares on logarithms; None for fewer than two."""
    if len({parabola.flops for parabola in parabolas}) < 2:
        return None
    flops = np.log([parabola.flops for parabola in parabolas])
    exponent, _ = np.polyfit(flops, sizes := np.log([parabola.parameters for parabola in parabolas]), 1)
    return PowerLaw(float(np.exp(flops.mean())), float(np.exp(sizes.mean())), float(exponent))


def _minimum(coefficients: np.ndarray, x: np.ndarray) -> float | None:
    """Where the parabola is lowest; None if it opens downward, or is lowest outside of `x`."""
    if coefficients[0] <= 0:
        return None
    center = -coefficients[1] / (2 * coefficients[0])
    return float(center) if x.min() <= center <= x.max() else None
