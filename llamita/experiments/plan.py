"""What a sweep computes: a base configuration and a table of runs. No torch is needed to plan.

kind = "ablation"
[base.model]                     # the settings that all runs share
num_layers = 4
[[runs]]
name = "no-norm-seed0"           # its directory within the sweep
group = "no-norm"                # runs of one group differ in their seed only
seed = 0
[runs.settings]                  # what differs from the base
norm = "none"
[details]                        # further settings of this kind of sweep
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llamita.config import RunConfig, Tables, replace
from llamita.errors import UserError

FORBIDDEN = re.compile(r"[^\w.+=,-]+")
"""What a directory name on any operating system should not contain."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        name: its directory within the sweep.
        group: what it tests; runs of one group differ in their seed only.
        seed: of initial weights, data order and so on, as in `TrainingConfig`.
        settings: flat settings that differ from the base configuration.
        code: a checkout, or a Python file with a subclass of `Llama`, that computes it; empty: this code.
    """

    name: str
    group: str
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""

    @classmethod
    def of(cls, group: str, seed: int, settings: Mapping[str, Any], code: str = "") -> "PlannedRun":
        """The run of this group and seed, named after them."""
        return cls(f"{directory_name(group)}-seed{seed}", group, seed, settings, code)


@dataclass(frozen=True)
class Plan:
    """A sweep before it is computed.

    Attributes:
        kind: what kind of experiment it is, such as "ablation".
        base: the configuration that all runs share.
        runs: in the order in which they are computed.
        details: further settings of this kind of sweep, in TOML's types; equal in every call that resumes it.

    Raises `UserError` for an empty sweep, for two runs of one name, and for settings that do not fit.
    """

    kind: str
    base: RunConfig
    runs: tuple[PlannedRun, ...]
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.runs:
            raise UserError(f"the {self.kind} has no runs: name at least one variant or value, and one seed")
        if doubled := [name for name, count in Counter(run.name for run in self.runs).items() if count > 1]:
            raise UserError(f"two runs of the {self.kind} have the same name, {doubled[0]!r}: leave one out")
        for run in self.runs:
            self.config(run)

    def config(self, run: PlannedRun) -> RunConfig:
        """The configuration of one of the runs, without its directory. Raises `UserError`, naming the run."""
        try:
            return replace(self.base, **{**run.settings, "seed": run.seed, "name": ""})
        except UserError as error:
            raise UserError(f"{run.group}: {str(error).removeprefix('configuration: ')}") from None

    def tables(self) -> dict[str, Any]:
        """The same for TOML."""
        runs = [{**vars(run), "settings": dict(run.settings)} for run in self.runs]
        return _plain({"kind": self.kind, "base": self.base.asked_for(), "runs": runs, "details": dict(self.details)})

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any]) -> "Plan":
        """A plan from its `tables()`. Raises `UserError` for settings that do not exist."""
        runs = tuple(PlannedRun(**row) for row in tables["runs"])
        base = RunConfig.from_tables(tables["base"], "base configuration")
        return cls(tables["kind"], base, runs, tables.get("details", {}))

    def digest(self) -> str:
        """8 hex digits that change with anything but execution settings and the number of seeds."""
        groups = {run.group: dict(run.settings) for run in self.runs}
        content = [self.kind, shared_settings(self.base), groups, self.details]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]

    def differences(self, other: "Plan") -> list[str]:
        """How `other` differs, e.g. "max_steps 500 -> 800"; empty if it is the same plan, or has further seeds."""
        if self.kind != other.kind:
            return [f"kind {self.kind} -> {other.kind}"]
        here, there = ({**shared_settings(plan.base), **_plain(plan.details)} for plan in (self, other))
        names = sorted(here.keys() | there.keys())
        changed = [
            f"{n} {here.get(n, 'unset')} -> {there.get(n, 'unset')}" for n in names if here.get(n) != there.get(n)
        ]
        return changed or self._differences_of_runs(other)

    def _differences_of_runs(self, other: "Plan") -> list[str]:
        here, there = (list(dict.fromkeys(run.group for run in plan.runs)) for plan in (self, other))
        if set(here) != set(there):
            return [f"runs of {', '.join(here)} -> {', '.join(there)}"]
        rows = {run.name: _plain(vars(run)) for run in other.runs}
        changed = [run.name for run in self.runs if rows.get(run.name) != _plain(vars(run))]
        return [f"{changed[0]} is missing or has other settings"] if changed else []


def shared_settings(config: RunConfig) -> dict[str, Any]:
    """The settings of a configuration that decide what its runs compute, by flat name."""
    tables: Tables = {name: rows for name, rows in config.asked_for().items() if name != "run"}
    return _plain({k: v for rows in tables.values() for k, v in rows.items() if k != "cache_dir"})


def directory_name(text: str) -> str:
    """`text` as the name of a directory on any operating system."""
    return FORBIDDEN.sub("_", text).strip("._") or "_"


def _plain(value: Any) -> Any:
    """`value` in TOML's types: lists for tuples, without None."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items() if inner is not None}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
