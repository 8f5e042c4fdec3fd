"""The parametric scaling law L(N, D) = E + A/N^α + B/D^β, its fit and its intervals (Hoffmann et al., 2022, D.2).

N are parameters, D tokens of training, L the loss in nats per token: E is what no model can avoid, A/N^α what a larger
model would avoid, B/D^β what more text would.

Where the loss floor of the text is known, E is that floor, and only the rest is fitted, to the distance from it.

Fitting needs scipy, of the extra llamita[experiments]; reading a law does not.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from itertools import product

import numpy as np

from llamita.errors import UserError

CONSTANTS = "E", "A", "alpha", "B", "beta"
FEWEST_POINTS = 8
"""Runs for a fit: five constants, and a few more that can contradict them."""
DELTA, DISTANCE_DELTA = 1e-3, 0.1
"""Of the Huber loss on log L (Hoffmann et al., 2022): above 0.1 %, a residual counts linearly. Of that on log (L - E)
where E is known: seeds change the distance by about 10 %."""
DESCENTS = 20
EXPONENTS = 0.1, 0.3, 0.6, 1.0, 1.5
FLOOR_SHARES = 0.0, 0.3, 0.6, 0.85, 0.97
"""Starting values of α and β, and of E as a share of the smallest loss."""
LOWEST = -20.0
BOUNDS = [(LOWEST, 10.0)] * 3 + [(0.01, 3.0)] * 2
LEVEL = 0.95


@dataclass(frozen=True)
class ScalingLaw:
    """L(N, D) = E + A/N^α + B/D^β, in nats per token."""

    E: float
    A: float
    alpha: float
    B: float
    beta: float

    def loss(self, parameters: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        """The loss of models of `parameters` after `tokens`: two arrays that broadcast -> nats per token."""
        N, D = np.asarray(parameters, dtype=float), np.asarray(tokens, dtype=float)
        return self.E + self.A * N**-self.alpha + self.B * D**-self.beta


@dataclass(frozen=True)
class Points:
    """The runs of a fit: parameters N, tokens D and validation losses L in nats per token, each (runs,)."""

    N: np.ndarray
    D: np.ndarray
    L: np.ndarray

    def __len__(self) -> int:
        return len(self.L)

    def above(self, floor: float) -> "Points":
        """The same with the distances of the losses to a loss floor in their place; none is below 1e-6 nats."""
        return Points(self.N, self.D, np.maximum(self.L - floor, 1e-6))

    def take(self, chosen: np.ndarray) -> "Points":
        """Some of the runs, by number or by mask."""
        return Points(self.N[chosen], self.D[chosen], self.L[chosen])


def require_enough_points(points: Points) -> None:
    """Raise `UserError` where the runs cannot determine the five constants, saying how many are needed."""
    sizes, lengths = len(np.unique(points.N)), len(np.unique(points.D))
    if len(points) < FEWEST_POINTS or min(sizes, lengths) < 3:
        raise UserError(
            f"a scaling law needs at least {FEWEST_POINTS} runs that repeat no text, of 3 sizes and 3 numbers of "
            f"tokens: there are {len(points)}, of {sizes} and {lengths}; finish the ladder, or choose --widths and "
            "--budgets that make it larger"
        )


def fit_law(points: Points, floor: float | None = None) -> ScalingLaw:
    """The law with the smallest Huber loss on log L; with E = `floor`, if given, on log (L - E).

    L-BFGS-B runs from the best `DESCENTS` of up to 125 starting points. Huber losses are summed, not averaged: with an
    average, L-BFGS-B stops too early (Besiroglu et al., 2024). Raises `UserError` for too few points.
    """
    require_enough_points(points)
    if floor is None:
        return _best(points, _starts(points, FLOOR_SHARES)[:DESCENTS])
    above = points.above(floor)
    return replace(_best(above, _starts(above, [0.0])[:DESCENTS], has_floor=False), E=floor)


def bootstrap_laws(
    points: Points, law: ScalingLaw, resamples: int, floor: float | None = None, seed: int = 0
) -> list[ScalingLaw]:
    """Laws of `resamples` samples of the runs, drawn with replacement; `floor` as for `fit_law`.

    Each is fitted from `law`, and from `law` with another E, since the gradient vanishes where E is 0. Samples that
    cannot determine a law are drawn again.
    """
    rng, laws = np.random.default_rng(seed), list[ScalingLaw]()
    if floor is not None:
        points, law = points.above(floor), replace(law, E=0.0)
    starts = [_encoded(law, points), _encoded(replace(law, E=points.L.min() / 2), points)]
    while len(laws) < resamples:
        sample = points.take(rng.integers(len(points), size=len(points)))
        if min(len(np.unique(sample.N)), len(np.unique(sample.D))) >= 3:
            found = _best(sample, starts, points, has_floor=floor is None)
            laws.append(found if floor is None else replace(found, E=floor))
    return laws


def interval(values: np.ndarray | list[float], level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of bootstrapped values."""
    low, high = np.quantile(np.asarray(values, dtype=float), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def constants(law: ScalingLaw) -> dict[str, float]:
    """E, A, alpha, B and beta by name."""
    return dict(zip(CONSTANTS, astuple(law), strict=True))


def shown(constant: float) -> str:
    """A constant in four digits; the lowest E that a fit can have is 0 for people."""
    return f"{constant:.4g}" if constant > 1e-6 else "0"


# --- The fit: θ = (log E, log A/N₀^α, log B/D₀^β, α, β), N₀ and D₀ being geometric means ------------------------------


def huber(residual: np.ndarray, delta: float = DELTA) -> np.ndarray:
    """Huber's loss of each residual: quadratic up to `delta`, then linear."""
    size = np.abs(residual)
    return np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))


def objective(
    theta: np.ndarray, n: np.ndarray, d: np.ndarray, logL: np.ndarray, delta: float = DELTA
) -> tuple[float, np.ndarray]:
    """Σ Huber(log L(N, D) - log L) and its gradient by θ; `n`, `d` are log N/N₀ and log D/D₀, each (runs,)."""
    e, a, b, alpha, beta = theta
    terms = np.stack([np.full_like(n, e), a - alpha * n, b - beta * d])  # (3, runs), the logarithms of the summands
    top = terms.max(axis=0)
    shares = np.exp(terms - top)
    total = shares.sum(axis=0)
    residual = top + np.log(total) - logL
    shares = shares / total
    weighted = shares * np.clip(residual, -delta, delta)  # times the derivative of Huber's loss
    return float(huber(residual, delta).sum()), np.array(
        [*weighted.sum(axis=1), -(weighted[1] * n).sum(), -(weighted[2] * d).sum()]
    )


def _best(
    points: Points, starts: list[np.ndarray], origin: Points | None = None, *, has_floor: bool = True
) -> ScalingLaw:
    """The best of the optima that L-BFGS-B reaches from `starts`; N₀ and D₀ are those of `origin`.

    `has_floor`: whether E is fitted, too; else the losses are distances to it, and E is 0.
    """
    from scipy.optimize import minimize

    origin = origin or points
    n, d = (np.log(values) - np.log(of).mean() for values, of in ((points.N, origin.N), (points.D, origin.D)))
    delta, lowest = (DELTA, BOUNDS[0]) if has_floor else (DISTANCE_DELTA, (LOWEST, LOWEST))
    scale = 1 / delta**2  # so that the tolerances of L-BFGS-B are far below what matters
    found = (
        minimize(
            lambda theta: tuple(scale * part for part in objective(theta, n, d, np.log(points.L), delta)),
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[lowest, *BOUNDS[1:]],
        )
        for start in starts
    )
    return _decoded(min(found, key=lambda optimum: optimum.fun).x, origin)


def _starts(points: Points, floor_shares: Sequence[float]) -> list[np.ndarray]:
    """Starting points, best first: a grid of E, α and β, with the A and B of non-negative least squares."""
    from scipy.optimize import nnls

    n, d = (np.log(values) - np.log(values).mean() for values in (points.N, points.D))
    starts = []
    for share, alpha, beta in product(floor_shares, EXPONENTS, EXPONENTS):
        E = share * points.L.min()
        summands = np.stack([np.exp(-alpha * n), np.exp(-beta * d)], axis=1)  # (runs, 2)
        factors, _ = nnls(summands / points.L[:, None], (points.L - E) / points.L)
        starts.append(np.array([*np.log(np.maximum([E, *factors], 1e-6)), alpha, beta]))
    return sorted(starts, key=lambda start: objective(start, n, d, np.log(points.L))[0])


def _encoded(law: ScalingLaw, origin: Points) -> np.ndarray:
    logs = np.log(np.maximum([law.E, law.A, law.B], 1e-300))
    logs -= [0, law.alpha * np.log(origin.N).mean(), law.beta * np.log(origin.D).mean()]
    return np.array([*np.clip(logs, *BOUNDS[0]), law.alpha, law.beta])


def _decoded(theta: np.ndarray, origin: Points) -> ScalingLaw:
    e, a, b, alpha, beta = (float(value) for value in theta)
    A, B = np.exp(a + alpha * np.log(origin.N).mean()), np.exp(b + beta * np.log(origin.D).mean())
    return ScalingLaw(float(np.exp(e)), float(A), alpha, float(B), beta)
