"""Axes: where a value is in a drawing, and which values get a tick."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)
"""Ticks of linear axes are multiples of these times a power of ten."""
SUBDIVISIONS = ((1.3, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)), (3.2, (1.0, 2.0, 5.0)), (math.inf, (1.0,)))
"""(decades, multiples of powers of ten that get ticks on a logarithmic axis of fewer decades)."""
PREFIXES = ((1e15, ""), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
MARGIN = 0.04


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` to `high` onto coordinates from `start` to `end`, linearly or logarithmically."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    @classmethod
    def over(
        cls, values: Iterable[float], start: float, end: float, *, is_log: bool = False, margin: float = MARGIN
    ) -> "Scale":
        """A scale that shows all finite `values` (for a logarithmic one: all above 0), with a margin on both sides."""
        shown = [v for v in values if math.isfinite(v) and (v > 0 or not is_log)]
        low, high = (min(shown), max(shown)) if shown else (1.0, 2.0)
        if is_log:
            low, high = math.log(low), math.log(high)
        space = (high - low) * margin or (1.0 if is_log else abs(high) * 0.1 or 1.0) * (margin > 0 or low == high)
        low, high = low - space, high + space
        return cls(math.exp(low), math.exp(high), start, end, True) if is_log else cls(low, high, start, end)

    def __call__(self, values: np.ndarray | float) -> np.ndarray:
        """The coordinates of `values`, of any shape; NaN for values that a logarithmic axis cannot show."""
        values = np.asarray(values, dtype=float)
        if self.is_log:
            values = np.log(np.where(values > 0, values, np.nan))
        low, high = (math.log(self.low), math.log(self.high)) if self.is_log else (self.low, self.high)
        return self.start + (values - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values between `low` and `high`, about `most` at most."""
        ticks = self._log_ticks() if self.is_log else []
        while len(ticks) > most:
            ticks = ticks[::2]
        return ticks if len(ticks) > 1 else linear_ticks(self.low, self.high, most)

    def _log_ticks(self) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        multiples = next(m for decades, m in SUBDIVISIONS if math.log10(self.high / self.low) < decades)
        every = [multiple * 10.0**power for power in range(first, last + 1) for multiple in multiples]
        return [tick for tick in every if self.low <= tick <= self.high]


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples of a round number, from `low` to `high`, `most` at most."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(r * power for r in ROUND if (high - low) / (r * power) <= most)
    return [round(n * step, 12) for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number for a tick: 1500 -> "1.5k", 2e9 -> "2G", 3e15 -> "3e15", 0.25 -> "0.25"."""
    if value and not 1e-3 <= abs(value) < 1e15:
        return f"{value:.3g}".replace("e+", "e").replace("e-0", "e-")
    size, prefix = next(((s, p) for s, p in PREFIXES if abs(value) >= s), (1.0, ""))
    return f"{value / size:.4g}{prefix}"
