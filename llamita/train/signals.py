"""Stop requests: finish the step, save, exit."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from llamita.parallel import Processes

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)
"""Ctrl-C, a termination signal, a closed terminal, and Ctrl-Break on Windows, which is how one process interrupts
another there. Windows has no SIGHUP, and other systems have no SIGBREAK."""


class StopRequest:
    """Whether Ctrl-C or a termination signal has arrived.

    A signal can arrive at any moment, and `received` shows it immediately. `bool` shows only what `agree` made known to
    all processes, so that no process stops alone because of a signal that arrived after the others had agreed.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._agreed: int | None = None

    def __bool__(self) -> bool:
        return self._agreed is not None

    def agree(self, processes: Processes) -> None:
        """Tell all processes whether one of them received a signal: they stop at the same step."""
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
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a request; a second Ctrl-C interrupts immediately, as usual.

    A signal that this process inherited as ignored stays ignored: SIGHUP under `nohup`, SIGINT in a background job.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may handle signals
        return
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}

    def note(number: int, frame: FrameType | None) -> None:
        request.received = number
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
