"""What repeated text is worth: effective tokens D' = U + U·R*·(1 - exp(-R/R*)) (Muennighoff et al., 2023, eq. 5).

U are the unique tokens, R = D/U - 1 how often they are repeated. A repeated token is worth a new one at first, and
loses a share of about 1/R* with each repetition: all repetitions together are worth at most R* times the text.
Muennighoff et al. measured R* = 15.4 on C4. Their law counts models larger than the text deserves as smaller, too; this
one does not.
"""

import numpy as np

from llamita.experiments.scaling.law import Points, ScalingLaw, huber

DECAYS = np.geomspace(1e-2, 1e4, 2_000)
"""The values of R* that a fit chooses from, 0.7 % apart."""


def effective_tokens(tokens: np.ndarray | float, unique: float, decay: np.ndarray | float) -> np.ndarray:
    """D' of `tokens` of training on `unique` tokens of text; `decay` is R*."""
    D = np.asarray(tokens, dtype=float)
    repetitions = np.maximum(D / unique - 1, 0)
    return np.minimum(D, unique) + unique * decay * -np.expm1(-repetitions / decay)


def fit_repetition(points: Points, law: ScalingLaw, unique: float) -> float:
    """R* of runs that repeat their text, given the law of those that do not: the smallest Huber loss on log L."""

    predicted = law.loss(points.N, effective_tokens(points.D, unique, DECAYS[:, None]))  # (decays, runs)
    misfits = huber(np.log(predicted / points.L)).sum(axis=1)
    return float(DECAYS[misfits.argmin()])
