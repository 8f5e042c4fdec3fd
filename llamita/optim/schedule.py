"""Learning-rate schedules: pure functions of the step, counted from 0. A step may be a fraction (`planning/length.py`).

Each warms up linearly over `warmup_steps`, from learning_rate / warmup_steps to `learning_rate`, then decays to
`min_learning_rate` at `max_steps`, and stays there.
"""

import math
from collections.abc import Callable

from llamita.config import OptimizerConfig


def cosine_schedule(
    step: float, learning_rate: float, min_learning_rate: float, warmup_steps: int, max_steps: int
) -> float:
    """The learning rate at `step`: warmup, then half a cosine (SGDR; Loshchilov & Hutter, 2017).

    It warms up linearly over `warmup_steps`, from learning_rate / warmup_steps, then decays along half a cosine to
    `min_learning_rate` at `max_steps`, and stays there.
    """
    if step < warmup_steps:
        return learning_rate * min(step + 1, warmup_steps) / warmup_steps
    if step >= max_steps:
        return min_learning_rate
    progress = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return min_learning_rate + 0.5 * (1 + math.cos(math.pi * progress)) * (learning_rate - min_learning_rate)


def linear_schedule(
    step: float, learning_rate: float, min_learning_rate: float, warmup_steps: int, max_steps: int
) -> float:
    """The learning rate at `step`: warmup, then linear decay (as in BERT; Devlin et al., 2019)."""
    return constant_schedule(step, learning_rate, min_learning_rate, warmup_steps, max_steps, decay_share=1.0)


def constant_schedule(
    step: float,
    learning_rate: float,
    min_learning_rate: float,
    warmup_steps: int,
    max_steps: int,
    decay_share: float = 0.1,
) -> float:
    """The learning rate at `step`: warmup, constant, then linear decay (WSD; Hu et al., 2024).

    The decay takes the last `decay_share` of `max_steps`, or all steps after the warmup if there are fewer. With a
    share of 0 the learning rate stays constant, and `min_learning_rate` is never reached.
    """
    if step < warmup_steps:
        return learning_rate * min(step + 1, warmup_steps) / warmup_steps
    decay_steps = min(round(decay_share * max_steps), max_steps - warmup_steps)
    if decay_share == 0 or step < max_steps - decay_steps:
        return learning_rate
    left = max(0, max_steps - step) / max(1, decay_steps)
    return min_learning_rate + left * (learning_rate - min_learning_rate)


def make_schedule(options: OptimizerConfig, max_steps: int) -> Callable[[float], float]:
    """The configured schedule, as a function of the step alone."""
    ends = options.learning_rate, options.min_learning_rate, options.warmup_steps, max_steps
    if options.schedule == "constant":
        return lambda step: constant_schedule(step, *ends, decay_share=options.decay_share)
    shape = {"cosine": cosine_schedule, "linear": linear_schedule}[options.schedule]
    return lambda step: shape(step, *ends)
