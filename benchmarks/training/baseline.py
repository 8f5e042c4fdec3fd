"""Compare this llamita with an older one: did a change cost speed or memory?

Both train the same model from the same weights on the same batches, each in a process that imports llamita from its own
folder. Measurements are interleaved, and each round gives one ratio of their speeds.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.command import UsageError
from common.markdown import line
from training.peers import Setting, measure_rounds, measured, require_same_losses
from training.results import MIB, BaselineRow
from training.shapes import Shape, Task
from training.worker_process import Worker, closing_all, llamita_source, start, write_inputs

ROUNDS = 9
SPEED_GOAL = 0.97
MEMORY_GOAL = 1.05
NEW, OLD = "new llamita", "old llamita"


@dataclass(frozen=True)
class Sides:
    """Where the two versions are."""

    new: Path
    old: Path
    caches: Path
    """A folder for the kernel cache of each: one version may delete kernels that another has compiled."""

    def tasks(self, task: Task) -> dict[str, Task]:
        """The task of each side."""
        return {
            NEW: replace(task, source=self.new, cache=self.caches / "new"),
            OLD: replace(task, source=self.old, cache=self.caches / "old"),
        }


def choose_sides(checkout: Path, caches: Path) -> Sides:
    """The installed llamita (else this checkout) and that of `checkout`. Raises `UsageError` if there is none."""
    if not (checkout / "llamita" / "__init__.py").is_file():
        raise UsageError(f"--baseline {checkout}: llamita/__init__.py not found: give a checkout of llamita")
    return Sides(llamita_source(), checkout.resolve(), caches)


def measure_baseline(shape: Shape, sides: Sides, setting: Setting) -> BaselineRow:
    """One row. Raises `AssertionError` if the first losses differ, or llamita was imported from elsewhere."""
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as folder, closing_all(workers):
        tasks = sides.tasks(setting.task("llamita", shape, Path(folder)))
        write_inputs(tasks[NEW])
        facts = {name: start(workers, name, task) for name, task in tasks.items()}
        for name, task in tasks.items():
            _require_source(facts[name], task)
        require_same_losses(facts[NEW], {OLD: facts[OLD]})
        answers = measure_rounds(workers, setting.rounds)
        new, old = (measured(facts[name], answers[name], workers[name].ask("finish")) for name in tasks)
    return BaselineRow.of(shape, new, old)


def _require_source(facts: dict[str, Any], task: Task) -> None:
    if Path(facts["source"]) != task.source:
        raise AssertionError(f"llamita was imported from {facts['source']}, not from {task.source}")


COLUMNS = (
    "shape", "batch", "new, tokens/s", "old, tokens/s", "speed, new/old (interval)", "min-max",
    "new, MiB", "old, MiB", "memory, new/old", "goals",
)  # fmt: skip


def row_line(row: BaselineRow) -> str:
    """One row of the table."""
    speeds = [f"{row.shape.tokens / side.step:,.0f}" for side in (row.new, row.old)]
    memory = [f"{side.memory / MIB:,.0f}" for side in (row.new, row.old)]
    least_most = f"{row.ratios[0]:.3f}-{row.ratios[-1]:.3f}"
    verdict = "; ".join(misses(row)) or "met"
    return line([row.shape.name, row.shape.batch, *speeds, str(row.speed), least_most, *memory,
                 f"{row.memory_ratio:.3f}", verdict])  # fmt: skip


def misses(row: BaselineRow) -> list[str]:
    """The goals that a row misses."""
    slower = [f"speed {row.speed.median:.3f}"] if row.speed.median < SPEED_GOAL else []
    larger = [f"memory {row.memory_ratio:.3f}"] if row.memory_ratio > MEMORY_GOAL else []
    return slower + larger


def notes(rows: list[BaselineRow]) -> Iterator[str]:
    """What the intervals are, the goals, and the rows that miss or may miss them."""
    rounds, speed = len(rows[0].ratios), rows[0].speed
    yield (
        f"The interval covers the median of the per-round ratios with probability {speed.coverage:.1%}; its bounds "
        f"are order statistics of {rounds} rounds (sign test), for any distribution."
    )
    yield f"Goals: new/old speed at least {SPEED_GOAL:g}, new/old memory at most {MEMORY_GOAL:g}."
    missed = [f"{row.name} ({'; '.join(found)})" for row in rows if (found := misses(row))]
    yield f"Rows that miss: {', '.join(missed) or 'none'}."
    if unsure := [row.name for row in rows if row.speed.low < SPEED_GOAL <= row.speed.median]:
        yield f"Rows whose interval reaches below {SPEED_GOAL:g}: {', '.join(unsure)}."
