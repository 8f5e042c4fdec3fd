"""Clocks of the training loop. They time the log, the checkpoints, and how many steps fit into a budget of minutes."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from llamita.parallel import Processes


class RunClock:
    """Where the time of a run goes: to steps, evaluation, samples and checkpoints.

    A resumed run continues with the `seconds` and the `latest` of its checkpoint.
    """

    def __init__(self, seconds: float = 0.0, latest: Mapping[str, float] | None = None):
        self.latest = dict(latest or {})
        """Seconds of the last "evaluate", "sample" and "save", and of a "step", on average since `measure_step`."""
        self.speed = 0.0
        """Tokens per second of training steps, as of the last `measure_speed`."""
        self._earlier, self._started = seconds, math.inf
        self._since, self._in_steps = 0.0, 0.0  # when the step began; seconds of all steps
        self._speed_since = self._step_since = (0.0, 0)  # seconds of steps until then; tokens, or steps

    @property
    def seconds(self) -> float:
        """Seconds of the run from step 1 on, without the time between two processes and before their first step."""
        return self._earlier + max(0.0, time.perf_counter() - self._started)

    def start(self, step: int, tokens: int) -> None:
        """The first step of this process begins, after `step` others of `tokens`."""
        self._started = self._since = time.perf_counter()
        self._speed_since, self._step_since = (self._in_steps, tokens), (self._in_steps, step)

    def stop_step(self) -> None:
        """A step has ended; the next one begins now, or after what is timed by `timing`."""
        now = time.perf_counter()
        self._in_steps += now - self._since
        self._since = now

    @contextmanager
    def timing(self, kind: str) -> Iterator[None]:
        """Time the block, which is no part of a step: "evaluate", "sample" or "save"."""
        started = time.perf_counter()
        yield
        self._since = time.perf_counter()
        self.latest[kind] = self._since - started

    def measure_speed(self, tokens: int) -> None:
        """Set `speed` to that of the steps since the last call; `tokens` is how many were trained on so far."""
        seconds, before = self._speed_since
        self.speed = (tokens - before) / max(self._in_steps - seconds, 1e-9)
        self._speed_since = self._in_steps, tokens

    def measure_step(self, step: int) -> None:
        """Note in `latest` how long a step took since the last call; `step` of them are done."""
        seconds, before = self._step_since
        if step > before:
            self.latest["step"] = (self._in_steps - seconds) / (step - before)
        self._step_since = self._in_steps, step


class SaveTimer:
    """Whether the last checkpoint is at least `seconds` old. With infinity it never is."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self.restart()

    def restart(self) -> None:
        """A checkpoint was saved."""
        self._saved = time.monotonic()

    def is_due(self, processes: Processes) -> bool:
        """Whether any process finds a checkpoint due: they agree, since all of them take part in saving."""
        if math.isinf(self._seconds):
            return False
        return processes.max(time.monotonic() - self._saved >= self._seconds) > 0
