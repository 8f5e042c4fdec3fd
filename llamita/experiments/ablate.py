"""An ablation from its options to its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamita.config import RunConfig, replace
from llamita.errors import UserError
from llamita.experiments.ablation import (
    Group,
    at_width,
    code_group,
    crossed,
    grid_groups,
    groups_of,
    ladder_groups,
    plan_ablation,
    variant_groups,
)
from llamita.experiments.ablation_report import Report
from llamita.experiments.comparison import compare
from llamita.experiments.other_code import digest, require_code
from llamita.experiments.plan import Plan
from llamita.experiments.result import Result
from llamita.experiments.runner import Runner
from llamita.experiments.sweep import Sweep
from llamita.experiments.tuning import require_tunable, tuned_groups
from llamita.experiments.variants import BASELINE
from llamita.experiments.word_kinds import ExactLosses, GroupedLoss, grouped_loss_of

DEFAULT_VARIANTS = ("no-norm", "post-norm", "nope")


@dataclass(frozen=True)
class Ablation:
    """What to compare.

    Attributes:
        base: the configuration that all runs share.
        variants: names of variants, each compared with `base`.
        grid: settings and their values; every combination is a group of runs.
        ladder: the name of a ladder, instead of variants and grid.
        seeds: runs of each group; the first seed is that of `base`.
        widths: hidden sizes at which everything is repeated; none: that of `base`.
        tune: a setting to tune for each group first: "learning_rate", or none.
        code: a checkout, or a Python file with a subclass of `Llama`, as one more variant.
    """

    base: RunConfig
    variants: Sequence[str] = ()
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    ladder: str = ""
    seeds: int = 5
    widths: Sequence[int] = ()
    tune: str = ""
    code: str = ""

    def groups(self) -> list[Group]:
        """All groups of runs, at all widths. Raises `UserError` for names and values that do not exist."""
        require_tunable(self.tune)
        if self.code:
            require_code(self.code)
            if self.grid:
                raise UserError("--code compares with this code at the base configuration: leave --vary out")
        if not self.widths:
            return self._groups(self.base)
        at = {width: self._groups(replace(self.base, hidden_size=width)) for width in self.widths}
        return [group for width, groups in at.items() for group in at_width(groups, width)]

    def _groups(self, base: RunConfig) -> list[Group]:
        if self.ladder:
            if self.variants or self.grid or self.code:
                raise UserError("--ladder decides what is compared: leave --variants, --vary and --code out")
            return ladder_groups(base, self.ladder)
        if self.code:
            variants = variant_groups(base, self.variants) if self.variants else [Group(BASELINE, {})]
            return [*variants, code_group(self.code)]
        if not self.grid:
            return variant_groups(base, self.variants or DEFAULT_VARIANTS)
        grid = grid_groups(base, self.grid)
        return crossed(variant_groups(base, self.variants), grid) if self.variants else grid

    def plan(self) -> Plan:
        """The plan, before anything is tuned."""
        return self._planned(self.groups())

    def _planned(self, groups: Sequence[Group]) -> Plan:
        code = {"code": digest(self.code)} if self.code else {}
        return plan_ablation(self.base, groups, self.seeds, {"tune": self.tune, **code})

    def run(self, directory: Path, runner: Runner | None = None, command: str = "") -> Report:
        """Tune and compute what remains to be computed -> the report on all runs in `directory`.

        `command`: the command line that computes it, for the report.
        """
        groups = self.groups()
        if self.tune:
            groups = tuned_groups(self.base, groups, directory, runner)
        sweep = Sweep.open(directory, self._planned(groups), command)
        sweep.run(runner)
        return report(sweep)


def default_directory(plan: Plan) -> Path:
    """runs/ablation-<hash of the plan, without the number of seeds>: the same command finds its sweep again."""
    return Path("runs") / f"{plan.kind}-{plan.digest()}"


def report(sweep: Sweep) -> Report:
    """The report on an ablation that is in a sweep. Raises `UserError` if it is another kind of sweep."""
    if sweep.plan.kind != "ablation":
        raise UserError(f"{sweep.path}: holds a sweep of another kind, {sweep.plan.kind}, not an ablation")
    results, groups = sweep.results(), groups_of(sweep.plan)
    return Report(results, groups, compare(results, groups), kinds(results), sweep.plan.details.get("tune", ""))


def kinds(results: Sequence[Result]) -> dict[str, list[GroupedLoss]]:
    """Group -> the loss of each of its finished runs by kind of word; empty where the data have no grammar."""
    found: dict[str, list[GroupedLoss]] = {}
    exact = ExactLosses()
    for result in results:
        if scored := grouped_loss_of(result, exact):
            found.setdefault(result.run.group, []).append(scored)
    return found
