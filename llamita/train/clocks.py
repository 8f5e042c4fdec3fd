"""Clocks of the training loop. They time the log and the checkpoints; nothing that is computed depends on them."""

import math
import time

from llamita.parallel import Processes


class StepClock:
    """Throughput of training steps, without the time of evaluation, sampling and saving."""

    def __init__(self, tokens: int):
        self.speed = 0.0
        """Tokens per second, as of the last `measure_speed`."""
        self._seconds, self._tokens, self._started = 0.0, tokens, 0.0

    def start(self) -> None:
        """A step begins."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """The step has ended."""
        self._seconds += time.perf_counter() - self._started

    def measure_speed(self, tokens: int) -> None:
        """Set `speed` to that of the steps since the last call; `tokens` is how many were trained on so far."""
        self.speed = (tokens - self._tokens) / max(self._seconds, 1e-9)
        self._seconds, self._tokens = 0.0, tokens


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
