"""Learning-rate schedules: pure functions of the step."""

import math


def cosine_schedule(
    step: int, learning_rate: float, min_learning_rate: float, warmup_steps: int, max_steps: int
) -> float:
    """The learning rate of update number `step`, counted from 0 (SGDR; Loshchilov & Hutter, 2017).

    It grows linearly over `warmup_steps`, from learning_rate / warmup_steps, then falls along half a cosine to
    `min_learning_rate`, which it has at `max_steps` and keeps.
    """
    if step < warmup_steps:
        return learning_rate * (step + 1) / warmup_steps
    if step >= max_steps:
        return min_learning_rate
    progress = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return min_learning_rate + 0.5 * (1 + math.cos(math.pi * progress)) * (learning_rate - min_learning_rate)
