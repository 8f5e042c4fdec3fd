"""Measuring in turns: what runs beside it on a machine slows all that are compared alike."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Job = Callable[[], object]


@dataclass(frozen=True)
class Seconds:
    """How long each job took, one number a round."""

    by_name: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """Seconds of the middle round."""
        return statistics.median(self.by_name[name])

    def ratios(self, slower: str, faster: str) -> list[float]:
        """How many times longer `slower` took than `faster` did in the same round, ascending."""
        return sorted(a / b for a, b in zip(self.by_name[slower], self.by_name[faster], strict=True))


def take_turns(jobs: Mapping[str, Job], rounds: int) -> Seconds:
    """Run all jobs in turn, `rounds` times, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            gc.collect()
            started = time.perf_counter()
            job()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return Seconds(seconds)
