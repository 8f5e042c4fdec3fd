"""Distribution-free confidence intervals."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate of a median, and the interval that covers the true one with probability `coverage`."""

    median: float
    low: float
    high: float
    coverage: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f}-{self.high:.3f})"


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The narrowest symmetric interval between order statistics that covers the median with at least `confidence`.

    Each of n independent values lies below the true median with probability ½, so their number K is binomial, and
    [x₍k₎, x₍n+1−k₎] covers the median with probability P(k ≤ K ≤ n−k) = 1 − 2·P(K < k) (the sign test inverted; David
    and Nagaraja, Order Statistics, 2003, section 7.1). Where even the whole range covers it with less, as with fewer
    than 6 values at 95 %, the range is returned with the coverage that it has.
    """
    ordered, count = sorted(values), len(values)
    rank, coverage = 1, _coverage(count, 1)
    while 2 * (rank + 1) <= count and _coverage(count, rank + 1) >= confidence:
        rank += 1
        coverage = _coverage(count, rank)
    return Interval(statistics.median(ordered), ordered[rank - 1], ordered[count - rank], coverage)


def _coverage(count: int, rank: int) -> float:
    """P(rank ≤ K ≤ count − rank) for K ~ Binomial(count, ½)."""
    return sum(math.comb(count, below) for below in range(rank, count - rank + 1)) / 2**count
