"""Interleaved measurements: noise on the machine affects all candidates alike."""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

Job = Callable[[], object]


@dataclass(frozen=True)
class Seconds:
    """Seconds of each job, one number per round."""

    by_name: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """Seconds of the median round."""
        return statistics.median(self.by_name[name])

    def ratios(self, slower: str, faster: str) -> list[float]:
        """Time of `slower` over that of `faster` within each round, ascending."""
        return sorted(a / b for a, b in zip(self.by_name[slower], self.by_name[faster], strict=True))


def interleaved(names: Iterable[str], rounds: int) -> Iterator[tuple[int, str]]:
    """(round, name) for every name in each round; every other round is reversed, so that no name is always first.

    Round 0 is a warm-up; rounds 1 … `rounds` are measured.
    """
    order = list(names)
    for number in range(rounds + 1):
        for name in order[::-1] if number % 2 else order:
            yield number, name


def measure_jobs(jobs: Mapping[str, Job], rounds: int) -> Seconds:
    """Run all jobs in interleaved rounds, after a warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number, name in interleaved(jobs, rounds):
        gc.collect()
        started = time.perf_counter()
        jobs[name]()
        if number:
            seconds[name].append(time.perf_counter() - started)
    return Seconds(seconds)
