"""Comparing groups of runs pair by pair: at equal steps, FLOPs and time; how often they diverged or spiked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llamita.experiments.ablation import Group, comparisons
from llamita.experiments.result import Result
from llamita.experiments.statistics import Difference, holm, paired_difference

Measure = Literal["steps", "FLOPs", "seconds"]
MEASURES: tuple[Measure, ...] = ("steps", "FLOPs", "seconds")

SPIKE_WINDOW = 10  # logged losses before the one that is judged
SPIKE_DEVIATIONS = 6.0
SPIKE_NATS = 0.1
GRADIENT_FACTOR = 5.0  # over the median of the gradient norms before
NORMAL = 1.4826  # standard deviations of a normal distribution per median absolute deviation


@dataclass(frozen=True)
class Comparison:
    """A group of runs against its reference; differences are of validation losses in nats per token, group - reference.

    Attributes:
        group, reference: names of the groups.
        differences: by measure: at equal steps, FLOPs, or seconds of training.
        p_value: of the difference at equal steps, Holm-corrected for all comparisons of the sweep.
        runs: runs of the group that have ended.
        diverged: how many of them diverged. Pairs with such a run have no difference.
        spiked: how many of them had at least one loss spike.
        gradient_spiked: how many had at least one spike of the gradient norm, before clipping.
    """

    group: str
    reference: str
    differences: Mapping[Measure, Difference]
    p_value: float
    runs: int
    diverged: int
    spiked: int
    gradient_spiked: int


def compare(results: Sequence[Result], groups: Sequence[Group]) -> list[Comparison]:
    """All comparisons of a sweep, from the runs that have ended."""
    pairs = list(comparisons(groups))
    differences: list[dict[Measure, Difference]]
    differences = [
        {m: paired_difference(pair_differences(results, g.name, r.name, m), len(pairs)) for m in MEASURES}
        for g, r in pairs
    ]
    adjusted = holm([by_measure["steps"].p_value for by_measure in differences])
    rows = zip(pairs, differences, adjusted, strict=True)
    return [Comparison(g.name, r.name, found, p, *_counts(results, g.name)) for (g, r), found, p in rows]


def _counts(results: Sequence[Result], group: str) -> tuple[int, int, int, int]:
    """(runs that have ended, those that diverged, those whose loss spiked, or whose gradient norm did) of a group."""
    ended = [r for r in results if r.run.group == group and r.status in ("finished", "diverged")]
    diverged = sum(result.status == "diverged" for result in ended)
    losses = sum(spikes(result.training()[1]) > 0 for result in ended)
    return len(ended), diverged, losses, sum(gradient_spikes(result.gradient_norms()) > 0 for result in ended)


def pair_differences(results: Sequence[Result], group: str, reference: str, measure: Measure) -> list[float]:
    """Validation loss of `group` minus that of `reference`, for every seed with which both have finished.

    Losses are read where the one of the two that used less of `measure` ended: the other one is read off between its
    evaluations, before its learning rate has decayed, which is to its disadvantage.
    """
    finished = {(r.run.group, r.run.seed): r for r in results if r.status == "finished"}
    seeds = [seed for name, seed in finished if name == group and (reference, seed) in finished]
    found = []
    for seed in seeds:
        (used, losses), (used_there, losses_there) = (curve(finished[n, seed], measure) for n in (group, reference))
        budget = min(used[-1], used_there[-1])
        found.append(float(np.interp(budget, used, losses) - np.interp(budget, used_there, losses_there)))
    return found


def curve(result: Result, measure: Measure) -> tuple[np.ndarray, np.ndarray]:
    """(n,) float64 each: what the run had used of `measure` at each evaluation, and its validation losses."""
    steps, losses = result.validation()
    if measure == "seconds":
        at, seconds = result.clock()
        return np.interp(steps, np.append(0, at), np.append(0.0, seconds)), losses
    if measure == "FLOPs":
        tokens = [row["tokens"] for row in result.metrics if row.get("val_loss") is not None]
        return np.array(tokens, dtype=float) * result.flops_per_token, losses
    return steps.astype(float), losses


def spikes(losses: np.ndarray) -> int:
    """How many spikes a sequence of logged training losses (n,) has.

    A spike is a loss above the median of the 10 before it by more than 0.1 nats and 6 robust standard deviations of
    them (1.4826 times their median absolute deviation), where the one before it was none.
    """
    if len(losses) <= SPIKE_WINDOW:
        return 0
    before, median = _before(losses)
    deviation = NORMAL * np.median(np.abs(before - median[:, None]), axis=1)
    return _beginnings(losses[SPIKE_WINDOW:] > median + np.maximum(SPIKE_NATS, SPIKE_DEVIATIONS * deviation))


def gradient_spikes(norms: np.ndarray) -> int:
    """How many spikes a sequence of gradient norms (n,) has: values above 5 times the median of the 10 before them."""
    if len(norms) <= SPIKE_WINDOW:
        return 0
    return _beginnings(norms[SPIKE_WINDOW:] > GRADIENT_FACTOR * _before(norms)[1])


def _before(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) -> the 10 values before each, from the 11th on (n - 10, 10), and their medians (n - 10,)."""
    before = np.lib.stride_tricks.sliding_window_view(values, SPIKE_WINDOW)[:-1]
    return before, np.median(before, axis=1)


def _beginnings(is_high: np.ndarray) -> int:
    """How many groups of consecutive true values there are."""
    return int(np.count_nonzero(is_high & ~np.append(False, is_high[:-1])))
