"""Paired statistics: is a difference between two groups of runs more than noise between seeds?

Runs of one pair share seed, data and data order, and the initial values of the parameters that they have in common.
What they share cancels in their difference, so that fewer seeds tell more than independent runs would (a paired t-test;
Student, 1908). numpy suffices: degrees of freedom are whole numbers, for which Student's distribution is a finite sum.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from llamita.randomness import key

LEVEL = 0.05
"""Significance level: intervals cover 95 %."""
POWER = 0.8
"""Probability with which the number of seeds in `seeds_needed` finds a difference of the size that was observed."""
RESAMPLES = 10_000
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, with its 95 % intervals; NaN where there are too few pairs to tell.

    Attributes:
        pairs: how many pairs there are.
        mean: of the differences.
        low, high: the interval of the paired t-test.
        bootstrap_low, bootstrap_high: the percentile interval of the bootstrap (Efron, 1979), too narrow for few pairs.
        p_value: of the paired t-test, two-sided.
        seeds_needed: pairs with which a difference of this size would be found in 80 % of experiments; 0 if unknown.
    """

    pairs: int
    mean: float
    low: float
    high: float
    bootstrap_low: float
    bootstrap_high: float
    p_value: float
    seeds_needed: int


def paired_difference(differences: Sequence[float], comparisons: int = 1) -> Difference:
    """The statistics of one difference per pair.

    `comparisons`: how many there are together, for which `seeds_needed` allows (at the level 0.05 / comparisons).
    """
    d = np.asarray(differences, dtype=float)
    mean = float(d.mean()) if len(d) else math.nan
    if len(d) < 2:
        nan = math.nan
        return Difference(len(d), mean, nan, nan, nan, nan, nan, 0)
    low, high, p_value = paired_t(d)
    seeds = seeds_needed(mean, float(d.std(ddof=1)), LEVEL / comparisons)
    return Difference(len(d), mean, low, high, *bootstrap_interval(d), p_value, seeds)


def paired_t(d: np.ndarray) -> tuple[float, float, float]:
    """Differences (n,), n ≥ 2 -> the ends of the 95 % interval of their mean, and the p-value of a mean of zero."""
    freedom, mean, error = len(d) - 1, float(d.mean()), float(d.std(ddof=1)) / math.sqrt(len(d))
    if error == 0:
        return mean, mean, 1.0 if mean == 0 else 0.0
    width = t_quantile(1 - LEVEL / 2, freedom) * error
    return mean - width, mean + width, 2 * (1 - t_cdf(abs(mean) / error, freedom))


def bootstrap_interval(d: np.ndarray) -> tuple[float, float]:
    """Differences (n,) -> the 2.5th and 97.5th percentile of the mean of n differences sampled with replacement."""
    rng = np.random.default_rng(key(0, "bootstrap", len(d)))
    means = d[rng.integers(len(d), size=(RESAMPLES, len(d)))].mean(axis=1)
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for the number of comparisons (Holm, 1979), in the same order. NaN stays, and does not count.

    The k-th smallest of m is multiplied by m - k + 1; none is below a smaller one's, nor above 1.
    """
    adjusted, running = list(p_values), 0.0
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def seeds_needed(mean: float, deviation: float, level: float = LEVEL) -> int:
    """Pairs with which a paired t-test finds a difference of this mean and standard deviation with 80 % power.

    The smallest n ≥ 2 with n ≥ ((t(1 - level / 2, n - 1) + z(0.8)) · deviation / mean)², an approximation of the
    noncentral t distribution; 0 if no number up to 10,000 suffices, as for a mean of zero.
    """
    if mean == 0 or not math.isfinite(mean + deviation):
        return 0
    z = NormalDist().inv_cdf(POWER)

    def suffices(n: int) -> bool:
        return n >= ((t_quantile(1 - level / 2, n - 1) + z) * deviation / mean) ** 2

    return _smallest(suffices, 2, MOST_SEEDS)


def _smallest(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The smallest n in [low, high] for which `holds`, which holds for all larger ones as well; 0 if there is none."""
    if not holds(high):
        return 0
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def t_cdf(t: float, freedom: int) -> float:
    """P(T ≤ t) for Student's t distribution with a whole number of degrees of freedom (Abramowitz & Stegun, 26.7.3-4).

    With θ = atan(t / sqrt(freedom)), P(|T| ≤ t) is a finite sum of powers of cos θ.
    """
    theta = math.atan2(abs(t), math.sqrt(freedom))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    inside = 2 / math.pi * (theta + sine * total) if odd else sine * total
    return 0.5 + math.copysign(inside / 2, t)


def t_quantile(probability: float, freedom: int) -> float:
    """The t with P(T ≤ t) = probability, between 0.5 and 1, by bisection."""
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2
