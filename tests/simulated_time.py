"""A clock for runs with a budget of minutes, which passes only while a run trains, evaluates, samples and saves."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest


class SimulatedTime:
    """Stands for the module `time` in `llamita.train.clocks`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


def simulate_time(
    patch: pytest.MonkeyPatch,
    trial: float = 4.0,
    step: Callable[[int], float] = lambda number: 4.0,
    evaluation: float = 3.0,
    sampling: float = 2.0,
    saving: float = 0.5,
) -> SimulatedTime:
    """From now on the trial step says `trial` seconds, and step number n takes `step(n)`."""
    time = SimulatedTime()

    def slow_down(name: str, seconds: Callable[..., float]) -> None:
        module, _, function = name.rpartition(".")
        original = getattr(import_module(module), function)

        def slow(*arguments: Any, **named: Any) -> Any:
            time.now += seconds(*arguments)
            return original(*arguments, **named)

        patch.setattr(name, slow)

    patch.setattr("llamita.train.clocks.time", time)
    patch.setattr("llamita.train.loop.measure", lambda run: trial)
    patch.setattr("llamita.train.steps.SAMPLE_TOKENS", 8)
    slow_down("llamita.train.loop.next_batch", lambda _, number: step(number))
    slow_down("llamita.train.steps.evaluate_loss", lambda *_: evaluation)
    slow_down("llamita.train.steps.generate_many", lambda *_: sampling)
    slow_down("llamita.train.steps.save_checkpoint", lambda *_: saving)
    return time
