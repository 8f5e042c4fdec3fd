"""A run with a budget of minutes: its steps are planned before step 1, and corrected so that it ends within the budget.

The clock of the main process decides for all processes, at the few steps of `Length.needs_correction`. The plans are
saved with each checkpoint and recorded under [facts] of config.toml; a run that repeats another one replays its plans.
"""

import math

from llamita.config import MOST_STEPS, Interval
from llamita.planning.length import Costs, Pauses, longest
from llamita.train.build import Run

AIM = 0.985  # of the budget: the last step, evaluation, samples and checkpoint may take longer than those before


def plan_length(run: Run, seconds_of_step: float) -> None:
    """Plan how many steps fit into the budget, unless their number is given or known from a checkpoint."""
    if not run.state.length.plans:
        run.clock.latest["step"] = seconds_of_step
        _plan(run)


def correct_length(run: Run) -> None:
    """Plan again at the steps where that is due, by what the steps, evaluations and so on have taken."""
    if math.isinf(run.config.training.budget) or not run.state.length.needs_correction(run.state.step):
        return
    run.hardware.wait()  # for the time of the steps, not of launching their kernels
    run.clock.stop_step()
    run.clock.measure_step(run.state.step)
    _plan(run)


def record_length(run: Run) -> None:
    """Record the plans under [facts] of config.toml, from where `lengths_to_repeat` reads them."""
    if not math.isinf(run.config.training.budget):
        run.directory.add_facts({"lengths": run.state.length.plans})


def _plan(run: Run) -> None:
    state, replayed = run.state, run.replayed.plans
    known = len(state.length.plans)
    if known < len(replayed):
        max_steps = replayed[known][1]
    else:
        max_steps = int(run.processes.sum(_fitting(run) if run.processes.is_main else 0))
    state.length = state.length.corrected(state.step, max_steps)


def _fitting(run: Run) -> int:
    """The number of steps of the longest run that ends within the budget, by the clock of this process."""
    left = AIM * run.config.training.budget - run.clock.seconds
    return longest(run.state.step, left, Costs(**run.clock.latest), _pauses(run), MOST_STEPS)


def _pauses(run: Run) -> Pauses:
    """How often training pauses; never as far as the first plan knows, from which the intervals follow."""
    if not run.state.length.plans:
        return Pauses(0, 0, 0)
    steps_per_epoch = len(run.data.train) / run.config.training.sequences_per_update

    def steps(interval: Interval) -> float:
        return steps_per_epoch if interval == "epoch" else interval

    every = run.intervals
    return Pauses(steps(every.evaluate), steps(every.sample), steps(every.save))
