"""Tuning a setting for each group before they are compared: an untuned baseline proves nothing."""

from collections.abc import Sequence
from dataclasses import replace as with_fields
from pathlib import Path

from llamita.config import RunConfig, replace
from llamita.data import open_dataset
from llamita.errors import UserError
from llamita.experiments.ablation import Group
from llamita.experiments.plan import Plan, PlannedRun
from llamita.experiments.result import Result
from llamita.experiments.runner import Runner
from llamita.experiments.sweep import Sweep
from llamita.train.resolve import resolve

TUNABLE = ("learning_rate",)
FACTORS = (1 / 3, 1.0, 3.0)
"""Of the learning rate that the group has without tuning."""
FOLDER = "tuning"
TUNING_SEED = 10**6  # after the first: above all of a sweep's


def require_tunable(name: str) -> None:
    """Raise `UserError` for a setting that cannot be tuned."""
    if name and name not in TUNABLE:
        raise UserError(f"--tune {name}: cannot be tuned; --tune learning_rate can")


def tuned_groups(
    base: RunConfig, groups: Sequence[Group], directory: Path, runner: Runner | None = None
) -> list[Group]:
    """The groups, each with the best of three learning rates, from a sweep of one seed in DIRECTORY/tuning.

    The seed is none of those of the sweep: what is compared was not tuned on.
    """
    known = replace(base, head_init=resolve(base, open_dataset(base)).model.head_init)
    bracket = {group.name: _bracket(known, group) for group in groups}
    seed = base.training.seed + TUNING_SEED
    rows = [(group.code, row) for group in groups for row in bracket[group.name].items()]
    runs = [PlannedRun.of(name, seed, settings, code) for code, (name, settings) in rows]
    results = Sweep.open(directory / FOLDER, Plan("tuning", base, tuple(runs))).run(runner)
    best = {
        group.name: _best(group.name, [r for r in results if r.run.group in bracket[group.name]]) for group in groups
    }
    return [with_fields(group, settings={**group.settings, "learning_rate": best[group.name]}) for group in groups]


def _bracket(base: RunConfig, group: Group) -> dict[str, dict[str, object]]:
    """Name of the run's group -> its settings, one for each factor."""
    middle = replace(base, **group.settings).optimizer.learning_rate
    rates = [float(f"{middle * factor:.3g}") for factor in FACTORS]
    return {f"{group.name},learning_rate={rate:g}": {**group.settings, "learning_rate": rate} for rate in rates}


def _best(name: str, results: Sequence[Result]) -> float:
    """The learning rate with the lowest validation loss. Raises `UserError` if no run has finished."""
    finished = [result for result in results if result.status == "finished"]
    if not finished:
        raise UserError(f"{name}: no learning rate of the bracket trains; give a lower --learning_rate in --config")
    return float(min(finished, key=lambda result: result.val_loss).run.settings["learning_rate"])
