"""The result of an ablation in words and tables."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llamita.experiments.ablation import Group
from llamita.experiments.comparison import MEASURES, Comparison
from llamita.experiments.result import Result
from llamita.experiments.statistics import LEVEL, Difference
from llamita.experiments.word_kinds import GroupedLoss, WordGroup
from llamita.planning import cache_bytes_per_token

MORE_SEEDS = "at least 5"


@dataclass(frozen=True)
class Report:
    """All that is known of an ablation.

    `kinds`: group -> the losses of its runs; empty where the data have no grammar. `tuned`: the setting that was tuned.
    """

    results: Sequence[Result]
    groups: Sequence[Group]
    comparisons: Sequence[Comparison]
    kinds: dict[str, list[GroupedLoss]]
    tuned: str = ""

    def text(self) -> str:
        """The whole report."""
        sections = [runs_table(self.results, self.groups), comparison_table(self.comparisons)]
        if self.kinds:
            sections += [kinds_table(self, "kind of word", lambda scored: scored.kinds)]
            sections += [kinds_table(self, "tokens since the story began", lambda scored: scored.positions)]
        sections.append("\n".join(verdict(comparison) for comparison in self.comparisons))
        if widths := width_changes(self.comparisons, self.groups):
            sections.append("\n".join(widths))
        return "\n\n".join([*sections, _on_tuning(self.tuned)])


def _on_tuning(tuned: str) -> str:
    if tuned:
        return f"{tuned} was tuned for each group by a small bracket; see the sweep tuning/."
    return (
        "The learning rate was not tuned for each group (--tune learning_rate does): a group may do better at its own."
    )


def runs_table(results: Sequence[Result], groups: Sequence[Group]) -> str:
    """One line per group: parameters and FLOPs against its reference, KV cache in bf16, mean loss over the seeds."""
    first = {group.name: next(r for r in results if r.run.group == group.name) for group in groups}
    has_floor = any(result.loss_floor is not None for result in results)
    head = [
        "group",
        "parameters",
        "",
        "FLOPs/token",
        "",
        "cache B/token",
        "seconds",
        "above the floor" if has_floor else "val. loss",
    ]
    rows = [[*head, "sd", "finished", "diverged"]]
    for group in groups:
        one, reference = first[group.name], first[group.reference or group.name]
        mine = [result for result in results if result.run.group == group.name]
        finished = [result for result in mine if result.status == "finished"]
        losses = [result.val_loss - (result.loss_floor or 0.0) for result in finished]
        seconds = f"{np.mean([result.seconds for result in finished]):.1f}" if finished else "-"
        sizes = _with_change(one.parameters, reference.parameters)
        flops = _with_change(one.flops_per_token, reference.flops_per_token)
        cache = f"{cache_bytes_per_token(one.model):,}"
        diverged = sum(result.status == "diverged" for result in mine)
        spread = f"{np.std(losses, ddof=1):.4f}" if len(losses) > 1 else "-"
        mean = f"{np.mean(losses):.4f}" if losses else "-"
        rows.append(
            [group.name, *sizes, *flops, cache, seconds, mean, spread, f"{len(finished)} of {len(mine)}", str(diverged)]
        )
    return aligned(rows)


def _with_change(value: float, reference: float) -> list[str]:
    """A number, and by how much it differs from that of the reference."""
    change = value / reference - 1
    return [f"{value:,.0f}", f"{change:+.1%}" if abs(change) >= 0.0005 else ""]


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """One line per comparison: the mean difference and its 95 % interval at equal steps, FLOPs and seconds."""
    at = [f"at equal {measure} [95 %]" for measure in MEASURES]
    rows = [["nats/token", at[0], "bootstrap", "p (Holm)", *at[1:], "loss spiked", "gradient spiked", "diverged"]]
    for comparison in comparisons:
        steps, *others = (comparison.differences[measure] for measure in MEASURES)
        name = f"{comparison.group} - {comparison.reference}"
        counts = [f"{number} of {comparison.runs}" for number in _counts(comparison)]
        bootstrap = _interval(steps.bootstrap_low, steps.bootstrap_high)
        rows.append([name, shown(steps), bootstrap, _p_value(comparison.p_value), *map(shown, others), *counts])
    return aligned(rows)


def _counts(comparison: Comparison) -> tuple[int, int, int]:
    return comparison.spiked, comparison.gradient_spiked, comparison.diverged


def shown(difference: Difference) -> str:
    """A mean and its interval, e.g. "+0.0412 [+0.0301, +0.0523]"."""
    if not difference.pairs:
        return "no pair"
    return f"{difference.mean:+.4f} {_interval(difference.low, difference.high)}".strip()


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"[{low:+.4f}, {high:+.4f}]"


def _p_value(p: float) -> str:
    return "-" if math.isnan(p) else "<0.0001" if p < 0.0001 else f"{p:.4f}"


def verdict(comparison: Comparison) -> str:
    """What the comparison at equal steps says, in one sentence, or how many seeds it would take to say something."""
    difference, name = comparison.differences["steps"], f"{comparison.group} against {comparison.reference}"
    diverged = f" It diverged in {comparison.diverged} of {comparison.runs} runs." if comparison.diverged else ""
    if not difference.pairs:
        return f"{name}: no pair of finished runs to compare.{diverged}"
    if difference.pairs == 1:
        return f"{name}: {difference.mean:+.4f}, but one seed has no interval: use --seeds 5.{diverged}"
    if comparison.p_value < LEVEL:
        better = "worse" if difference.mean > 0 else "better"
        return (
            f"{name}: {better} by {abs(difference.mean):.4f} nats/token (p = {_p_value(comparison.p_value)}).{diverged}"
        )
    enough = difference.seeds_needed
    needed = (
        f"about {max(enough, difference.pairs + 1):,} would, for one as large as observed"
        if enough
        else ("and no number of seeds up to 10,000 would, for one as small as observed")
    )
    return f"{name}: {difference.pairs} seeds do not suffice to tell a difference; {needed}.{diverged}"


def width_changes(comparisons: Sequence[Comparison], groups: Sequence[Group]) -> list[str]:
    """Where a conclusion differs between widths: better, worse, or neither."""
    widths = {group.name: group.width for group in groups}
    found: dict[tuple[str, str], dict[int, str]] = {}
    for comparison in comparisons:
        if width := widths[comparison.group]:
            pair = comparison.group.removesuffix(f"@{width}"), comparison.reference.removesuffix(f"@{width}")
            found.setdefault(pair, {})[width] = conclusion(comparison)
    return [
        f"{group} against {reference}: the conclusion {'changes' if len(set(by.values())) > 1 else 'does not change'} "
        f"with the width ({', '.join(f'{width}: {said}' for width, said in sorted(by.items()))})."
        for (group, reference), by in found.items()
    ]


def conclusion(comparison: Comparison) -> str:
    """better, worse, diverged (where no pair is left), or "cannot tell"."""
    difference = comparison.differences["steps"]
    if not difference.pairs and comparison.diverged:
        return "diverged"
    if not comparison.p_value < LEVEL:
        return "cannot tell"
    return "worse" if difference.mean > 0 else "better"


def kinds_table(report: Report, title: str, of: Callable[[GroupedLoss], dict[str, WordGroup]]) -> str:
    """The distance of each group's loss to the floor by kind of word or by position, and differences of those compared.

    The first line is the floor itself, the mean over all runs.
    """
    names = list(of(next(iter(report.kinds.values()))[0]))
    references = {group.name: group.reference for group in report.groups}
    distances = {group: [_mean(map(of, runs), name).distance for name in names] for group, runs in report.kinds.items()}
    every = [of(run) for runs in report.kinds.values() for run in runs]
    rows = [[f"above the floor, by {title}", *names]]
    rows.append(["floor", *(f"{_mean(every, name).floor:.4f}" for name in names)])
    for group, values in distances.items():
        rows.append([group, *(f"{value:.4f}" for value in values)])
        if reference := distances.get(references[group]):
            gaps = (value - other for value, other in zip(values, reference, strict=True))
            rows.append([f"  - {references[group]}", *(f"{gap:+.4f}" for gap in gaps)])
    return aligned(rows)


def _mean(runs: Iterable[dict[str, WordGroup]], name: str) -> WordGroup:
    """The mean over runs."""
    return WordGroup(*np.mean([run[name] for run in runs if name in run], axis=0).tolist())


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns of text, the first one left-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(_cells(row, widths)).rstrip() for row in rows)


def _cells(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.rjust(width) if index else cell.ljust(width)
