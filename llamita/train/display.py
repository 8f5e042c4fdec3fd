"""What the user sees while a run trains: one live line on a terminal, plain lines in a pipe."""

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_LINES = 20  # lines of progress that a run prints into a pipe
REFRESH_SECONDS = 0.25
BAR_WIDTHS = 8, 30


class Display:
    """Prints lines, and shows the progress of a task of known length. With `quiet` it prints nothing.

    With `json`, standard output gets nothing but the result as one line of JSON, and standard error all else.
    """

    def __init__(self, quiet: bool = False, json: bool = False):
        self.options = {"quiet": quiet, "json": json}
        # No emoji: a sample may have :cat:
        self.console = Console(quiet=quiet, stderr=json, highlight=False, soft_wrap=True, emoji=False)
        self._live: Live | None = None
        self._task: _Task | None = None
        self._drawn = 0.0
        self._last_line = 0

    def say(self, text: str = "") -> None:
        """Print a line; the live line stays below it."""
        with self._terminal_may_close():
            self.console.print(text, markup=False)

    def result(self, row: Mapping[str, Any]) -> None:
        """Print the result of a run, if it was requested as JSON."""
        if self.options["json"] and not self.options["quiet"]:
            self.close()
            print(json.dumps(row, ensure_ascii=False), flush=True)

    def progress(
        self, label: str, done: int, total: int, status: Sequence[str] = (), details: Sequence[str] = ()
    ) -> None:
        """Show that `done` of `total` is done, and the time left. A new label begins a new task; `total` ends it.

        `status` is part of every line; `details` only where there is space for them, the first ones first.
        """
        if self._task is None or label != self._task.label:
            self.close()
            self._task, self._last_line = _Task(label, done), done
        self._task.update(done, total, status, details)
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            with self._terminal_may_close():
                self._draw(self._task)
        else:
            self._print(self._task)
        if done >= total:
            self.close()

    def close(self) -> None:
        """End the live line, also when a task was cut short."""
        live, self._live, self._task = self._live, None, None
        if live is not None:
            with self._terminal_may_close():
                live.stop()

    @contextmanager
    def _terminal_may_close(self) -> Iterator[None]:
        """Let a run continue where its terminal is closed: SIGHUP, which comes with that, stops it or is ignored."""
        try:
            yield
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            # Else each later line fails, too.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.console.file.fileno())

    def _draw(self, task: "_Task") -> None:
        if self._live is None:
            options = {"console": self.console, "auto_refresh": False, "transient": True}
            self._live = Live(get_renderable=lambda: task.row(self.console.width), **options)
            self._live.start(refresh=True)
            self.console.show_cursor(True)  # Ctrl-C may end the process immediately, and would leave it hidden
            self._drawn = monotonic()
        elif monotonic() - self._drawn >= REFRESH_SECONDS:
            self._live.refresh()
            self._drawn = monotonic()

    def _print(self, task: "_Task") -> None:
        # Only tasks with a status are worth several lines in a log.
        if task.status and (task.done - self._last_line >= task.total / PLAIN_LINES or task.done >= task.total):
            self._last_line = task.done
            self.say(task.line())


class _Task:
    """How far a task is, and when it will end at its mean speed so far."""

    def __init__(self, label: str, done: int):
        self.label, self.done, self.total = label, done, done
        self.status: Sequence[str] = ()
        self.details: Sequence[str] = ()
        self._first = done
        self._started = self._updated = monotonic()

    def update(self, done: int, total: int, status: Sequence[str], details: Sequence[str]) -> None:
        """Note where the task is now."""
        self.done, self.total, self.status, self.details = done, total, status, details
        self._updated = monotonic()

    def line(self, width: int | None = None) -> str:
        """Progress, status and time left; the label and details only as far as `width` characters allow."""
        count = f"{self.done:,}/{self.total:,}"
        rest = [*self.status, f"ETA {self._time_left()}"]
        line = "  ".join([f"{self.label} {count}", *rest])
        if width is not None and len(line) > width:
            line = "  ".join([count, *rest])
            return line if len(line) <= width else " ".join([count, *rest])
        for detail in self.details:
            if width is not None and len(line) + 2 + len(detail) > width:
                break
            line = f"{line}  {detail}"
        return line

    def row(self, width: int) -> Table:
        """The line as it is on a terminal of `width` columns, with a bar where there is space for one."""
        line = self.line(width - 1)  # a full last column makes some terminals wrap
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_column(no_wrap=True, overflow="ellipsis")
        free = width - 1 - len(line) - 4
        if free < BAR_WIDTHS[0]:
            row.add_row(Text(line))
        else:
            bar = ProgressBar(total=max(self.total, 1), completed=self.done, width=min(free, BAR_WIDTHS[1]))
            row.add_row(Text(line), bar)
        return row

    def _time_left(self) -> str:
        done = self.done - self._first
        if not done:
            return "-:--"
        return clock_time((self._updated - self._started) / done * (self.total - self.done))


def clock_time(seconds: float) -> str:
    """151.2 -> "2:31", 3661 -> "1:01:01"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
