"""How many steps a run has: fixed, or planned for a budget of minutes and corrected. Nothing is timed here."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CORRECT_AFTER = 0.2  # of the steps that were left at the last correction
LAST_CORRECTION = 0.01  # of all steps: with fewer left, no correction follows


@dataclass(frozen=True)
class Length:
    """The number of steps of a run, as a list of plans: (the step from which it holds, the steps of the whole run).

    A run of fixed length has one plan, which holds from step 0 on; a run with a budget has none until it is planned.
    """

    plans: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, plans: Iterable[Sequence[int]]) -> "Length":
        """From pairs as a file holds them."""
        return cls(tuple((int(step), int(max_steps)) for step, max_steps in plans))

    @property
    def first(self) -> int:
        """Steps of the whole run as first planned: intervals and the learning-rate schedule follow from them."""
        return self.plans[0][1]

    @property
    def max_steps(self) -> int:
        """Steps of the whole run as planned now."""
        return self.plans[-1][1]

    def corrected(self, step: int, max_steps: int) -> "Length":
        """The same with another plan that holds from `step` on."""
        return Length((*self.plans, (step, max_steps)))

    def needs_correction(self, step: int) -> bool:
        """Whether a run with a budget is planned again after `step` steps: a function of the plans so far.

        The first correction is before step 1, when evaluation and samples have been timed; each further one after a
        fifth of the steps that were left. So about twenty corrections lead to the last hundredth of a run.
        """
        since, max_steps = self.plans[-1]
        if len(self.plans) == 1 or step >= max_steps:
            return len(self.plans) == 1 and step == 0
        left = max_steps - since
        return left > LAST_CORRECTION * max_steps and step >= since + math.ceil(CORRECT_AFTER * left)

    def position(self, step: int) -> float:
        """Where `step` is in the learning-rate schedule, which has the `first` number of steps.

        A plan of M_k steps that holds from step s_k on spreads what is left of the schedule evenly over its steps:

            p(s) = p(s_k) + (M_0 - p(s_k)) (s - s_k) / (M_k - s_k)

        So the learning rate never jumps, the last step is the end of the schedule, and p(s) = s without corrections.
        """
        position, ends = 0.0, [since for since, _ in self.plans[1:]]
        for (since, max_steps), until in zip(self.plans, [*ends, step], strict=True):
            steps = min(until, step) - since
            if steps > 0:
                position += (self.first - position) * steps / (max_steps - since)
        return position


@dataclass(frozen=True)
class Costs:
    """Seconds of one step, evaluation, sampling and checkpoint; 0 for what has not been timed yet."""

    step: float
    evaluate: float = 0.0
    sample: float = 0.0
    save: float = 0.0


@dataclass(frozen=True)
class Pauses:
    """Steps between two evaluations, samplings and checkpoints, fractions for epochs; 0: never."""

    evaluate: float
    sample: float
    save: float

    def seconds(self, step: int, end: int, costs: Costs) -> float:
        """Seconds of all that is due from `step` to the last step `end`, both included; nothing is due at step 0."""
        evaluations, samples, checkpoints = (
            math.ceil(end / every) - math.floor(max(0, step - 1) / every) if every else 0
            for every in (self.evaluate, self.sample, self.save)
        )
        # A checkpoint precedes each evaluation; others are rare, or at multiples of its interval.
        checkpoints = max(evaluations, checkpoints)
        return evaluations * costs.evaluate + samples * costs.sample + checkpoints * costs.save


def longest(step: int, seconds: float, costs: Costs, pauses: Pauses, most: int) -> int:
    """The most steps (up to `most`) of a run that has computed `step` of them and has `seconds` left; at least one."""

    def is_too_long(end: int) -> bool:
        return (end - step) * costs.step + pauses.seconds(step, end, costs) > seconds

    least = max(step, 1)
    if is_too_long(least):
        return least
    low, high = least, most + 1  # low is possible, high is not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_too_long(middle) else (middle, high)
    return low
