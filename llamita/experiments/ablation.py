"""Planning an ablation: which groups of runs it has, and which group each is compared with."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from llamita.config import RunConfig, replace
from llamita.errors import UserError
from llamita.experiments.plan import Plan, PlannedRun
from llamita.experiments.variants import BASELINE, Settings, find_ladder, find_variant, matched

MOST_SEEDS = 1000


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only: their name, the settings that differ from the base, and the reference.

    `reference` is the group that this one is compared with; empty for one that others are compared with.
    `width`: the hidden size of a sweep over `--widths`; 0 without. `code`: as in `PlannedRun`.
    """

    name: str
    settings: Settings
    reference: str = ""
    width: int = 0
    code: str = ""


def variant_groups(base: RunConfig, names: Sequence[str]) -> list[Group]:
    """The baseline and the variants of these names, each compared with it. A variant that changes nothing is left out.

    Raises `UserError` for an unknown name, and if no variant is left.
    """
    groups = [Group(BASELINE, {})]
    for name in dict.fromkeys(names):
        settings = find_variant(name).settings(base.model)
        if replace(base, **settings).model != base.model:
            groups.append(Group(name, settings, BASELINE))
    if len(groups) == 1:
        raise UserError(f"nothing to compare: {_same(names)}; name another variant with --variants")
    return groups


def unchanged_variants(base: RunConfig, names: Sequence[str]) -> list[str]:
    """The variants that the base configuration already is."""
    settings = {name: find_variant(name).settings(base.model) for name in names}
    return [name for name, changes in settings.items() if replace(base, **changes).model == base.model]


def _same(names: Sequence[str]) -> str:
    return f"the base configuration already is {', '.join(names)}" if names else "there is no variant"


def code_group(code: str) -> Group:
    """The base configuration with other code, compared with this code."""
    return Group(f"code-{Path(code).resolve().stem}", {}, BASELINE, code=str(Path(code).resolve()))


def ladder_groups(base: RunConfig, name: str) -> list[Group]:
    """The rungs of a ladder, each compared with the one below it, the first of which is `gpt2-baseline`."""
    settings = find_variant("gpt2-baseline").settings(base.model)
    groups = list[Group]()
    for rung, change in find_ladder(name):
        settings = settings | change(replace(base, **settings).model)
        groups.append(Group(rung, settings, groups[-1].name if groups else ""))
    return groups


def grid_groups(base: RunConfig, grid: Mapping[str, Sequence[Any]]) -> list[Group]:
    """Every combination of the values, each compared with the base configuration, or else with the first one."""
    groups = list[Group]()
    for values in product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        name = ",".join(f"{setting}={_shown(value)}" for setting, value in settings.items())
        groups.append(Group(name, matched(base.model, settings)))
    same = [group.name for group in groups if replace(base, **group.settings) == base]
    reference = (same or [groups[0].name])[0]
    return [Group(g.name, g.settings, "" if g.name == reference else reference) for g in groups]


def crossed(variants: Sequence[Group], grid: Sequence[Group]) -> list[Group]:
    """Every variant at every combination of a grid, compared with the variant's own reference there."""
    return [
        Group(f"{v.name},{g.name}", {**v.settings, **g.settings}, v.reference and f"{v.reference},{g.name}")
        for g in grid
        for v in variants
    ]


def at_width(groups: Sequence[Group], width: int) -> list[Group]:
    """The same groups at another hidden size."""

    def named(name: str) -> str:
        return name and f"{name}@{width}"

    sizes = {"hidden_size": width}
    return [Group(named(g.name), {**g.settings, **sizes}, named(g.reference), width, g.code) for g in groups]


def plan_ablation(base: RunConfig, groups: Sequence[Group], seeds: int, details: Mapping[str, Any]) -> Plan:
    """The runs of all groups, seed by seed, so that a sweep that is stopped early has complete pairs.

    Raises `UserError` for fewer than one seed.
    """
    if not 1 <= seeds <= MOST_SEEDS:
        raise UserError(f"--seeds is {seeds:,}, but must be from 1 to {MOST_SEEDS:,}")
    first = base.training.seed
    runs = [PlannedRun.of(g.name, first + seed, g.settings, g.code) for seed in range(seeds) for g in groups]
    references = {group.name: group.reference for group in groups}
    widths = {group.name: group.width for group in groups if group.width}
    return Plan("ablation", base, tuple(runs), {"references": references, "widths": widths, **details})


def groups_of(plan: Plan) -> list[Group]:
    """The groups of a plan that `plan_ablation` made."""
    first = {run.group: run for run in reversed(plan.runs)}
    references, widths = plan.details["references"], plan.details.get("widths", {})
    return [
        Group(name, dict(first[name].settings), references[name], widths.get(name, 0), first[name].code)
        for name in dict.fromkeys(run.group for run in plan.runs)
    ]


def parse_grid(options: Sequence[str]) -> dict[str, list[Any]]:
    """`["mlp=swiglu,gelu", "learning_rate=3e-4,1e-3"]` -> values by setting. Raises `UserError`."""
    grid = dict[str, list[Any]]()
    for option in options:
        name, equals, listed = option.partition("=")
        values = [value.strip() for value in listed.split(",") if value.strip()]
        if not name.strip() or not equals or not values:
            raise UserError(f"--vary {option!r}: write --vary setting=value,value, such as --vary mlp=swiglu,gelu")
        if name in grid:
            raise UserError(f"--vary names {name} twice: list all its values in one")
        grid[name.strip().replace("-", "_")] = [_typed(value) for value in values]
    return grid


def _typed(text: str) -> Any:
    """A value as TOML would have it: a number, true or false, or else a string."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def comparisons(groups: Sequence[Group]) -> Iterator[tuple[Group, Group]]:
    """(group, reference) for every comparison."""
    by_name = {group.name: group for group in groups}
    yield from ((group, by_name[group.reference]) for group in groups if group.reference)
