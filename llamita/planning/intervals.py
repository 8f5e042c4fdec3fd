"""How often a run logs, evaluates, samples and saves: what "auto" means for each interval."""

import math
from dataclasses import dataclass

from llamita.config import ExecutionConfig, Interval

TIMES_PER_RUN = 10
SAVE_SECONDS = 15 * 60.0  # at most this much work is lost to a crash


@dataclass(frozen=True)
class Intervals:
    """Steps between two lines of the log, evaluations, samples and checkpoints, with every "auto" resolved.

    `save_seconds`: a checkpoint is also due when the last one is this old. Infinite where the user set `save_every`.
    """

    log: Interval
    evaluate: Interval
    sample: Interval
    save: Interval
    save_seconds: float = math.inf

    def __str__(self) -> str:
        saves = f" or {self.save_seconds / 60:.0f} min" if math.isfinite(self.save_seconds) else ""
        samples = f"sample {_every(self.sample)}" if self.sample else "no samples"
        return f"log {_every(self.log)}, evaluate {_every(self.evaluate)}, {samples}, save {_every(self.save)}{saves}"


def choose_intervals(run: ExecutionConfig, max_steps: int) -> Intervals:
    """Resolve "auto": evaluate, sample and save after each tenth of the run; save also every 15 minutes.

    A pure function of the configuration and the number of steps, as first planned. The clock decides about checkpoints
    only, which change nothing that a run computes or logs.
    """
    tenth = max(1, math.ceil(max_steps / TIMES_PER_RUN))
    return Intervals(
        run.log_every,
        tenth if run.eval_every == "auto" else run.eval_every,
        tenth if run.sample_every == "auto" else run.sample_every,
        tenth if run.save_every == "auto" else run.save_every,
        SAVE_SECONDS if run.save_every == "auto" else math.inf,
    )


def _every(interval: Interval) -> str:
    if interval == "epoch":
        return "every epoch"
    return "every step" if interval == 1 else f"every {interval:,} steps"
