"""Being asked to stop: finish the step, save, leave."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from llamita.parallel import Processes

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name))
"""Ctrl-C, a termination signal, and the Ctrl-Break of Windows, by which one process can interrupt another there."""


class StopRequest:
    """Whether Ctrl-C or a termination signal has come.

    A signal comes at any moment, and `received` tells of it at once; `bool` tells only what `agree` made known to all,
    so that no process acts alone on one that came after.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._agreed: int | None = None

    def __bool__(self) -> bool:
        return self._agreed is not None

    def agree(self, processes: Processes) -> None:
        """Make it known to all processes, which stop at the same step, when one of them was asked."""
        self._agreed = int(processes.max(self.received or 0)) or None

    def obey(self) -> None:
        """Raise what the signal would have raised, now that everything is saved."""
        number = self._agreed or self.received
        if number in (signal.SIGINT, getattr(signal, "SIGBREAK", None)):
            raise KeyboardInterrupt("the step is finished and saved")
        if number is not None:
            raise SystemExit(128 + number)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request; a second Ctrl-C interrupts at once, as always."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may catch signals
        return
    before = {number: signal.getsignal(number) for number in STOPPING}

    def note(number: int, frame: FrameType | None) -> None:
        request.received = number
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
