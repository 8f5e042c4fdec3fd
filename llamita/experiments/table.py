"""What the user sees of a sweep: one live table on a terminal, one line per finished run in a pipe."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from llamita.experiments.result import Outcome
from llamita.train import Display, RunDirectory
from llamita.train.display import clock_time

REFRESH_SECONDS = 0.25
FRAME_LINES = 6  # of the terminal, for the frame of the table and the line below it


@dataclass
class _Row:
    """A run in the table."""

    name: str
    status: str = "waiting"
    step: int = 0
    total: int = 0
    loss: str = ""
    started: float = 0.0
    first_step: int = -1
    seconds: float = 0.0

    def eta(self) -> float | None:
        """Seconds until it ends, at its mean speed so far; None while that is unknown."""
        done = self.step - self.first_step
        if self.status != "running" or self.first_step < 0 or done <= 0:
            return None
        return (time.monotonic() - self.started) / done * (self.total - self.step)


class SweepTable:
    """Run, status, step, loss and time of every run that is computed now. Use it as a context."""

    def __init__(self, title: str, names: Sequence[str], console: Console | None = None, parallel: int = 1):
        self._title = title
        self._rows = {name: _Row(name) for name in names}
        self._console = console or Console(highlight=False, soft_wrap=True, emoji=False)
        self._is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live = Live(get_renderable=self.render, console=self._console, auto_refresh=False)
        self._drawn = 0.0
        self.parallel = parallel

    def __enter__(self) -> "SweepTable":
        if self._is_live:
            self._live.start()
            self._console.show_cursor(True)  # Ctrl-C may end the process immediately, and would leave it hidden
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._is_live:
            self._live.stop()
        if kind is not None and not issubclass(kind, Exception):  # Ctrl-C, or a signal
            self._print("stopped, and saved: the same command resumes the sweep")

    def start(self, name: str) -> None:
        """A run begins."""
        row = self._rows[name]
        row.status, row.started = "running", time.monotonic()
        self._refresh(always=True)

    def update(self, name: str, step: int, total: int, loss: str) -> None:
        """A run has reached `step` of `total`."""
        row = self._rows[name]
        if row.first_step < 0:
            row.first_step, row.started = step, time.monotonic()
        row.step, row.total, row.loss = step, total, loss
        self._refresh()

    def end(self, name: str, outcome: Outcome, path: Path) -> None:
        """A run has ended; its last validation loss is shown."""
        row = self._rows[name]
        losses = [line["val_loss"] for line in RunDirectory(path).metrics.rows() if line.get("val_loss") is not None]
        row.status, row.seconds = outcome.status, time.monotonic() - row.started
        row.loss = f"{losses[-1]:.4f}" if losses else ""
        self._refresh(always=True)
        if not self._is_live:
            error = f": {outcome.error}" if outcome.error else ""
            self._print(
                f"{name}  {row.status}  loss {row.loss or '-'}  {clock_time(row.seconds)}  {self._count()}{error}"
            )

    def render(self) -> Table:
        """The table as it is now; of a long one, what fits around the running rows."""
        table = Table("run", "status", "step", "loss", "time left", title=self._title, caption=self._count())
        for row in self._visible():
            step = f"{row.step:,}/{row.total:,}" if row.total else ""
            left = row.eta()
            table.add_row(row.name, row.status, step, row.loss, clock_time(left) if left is not None else "")
        return table

    def _visible(self) -> list[_Row]:
        rows = list(self._rows.values())
        space = max(3, self._console.height - FRAME_LINES)
        last = max((index for index, row in enumerate(rows) if row.status != "waiting"), default=0)
        first = min(max(0, last - space + 2), max(0, len(rows) - space))
        return rows[first : first + space]

    def _count(self) -> str:
        """How many runs have ended, and when all will have."""
        rows = self._rows.values()
        ended = [row for row in rows if row.status not in ("waiting", "running")]
        text = f"{len(ended)} of {len(rows)} runs"
        if not ended or len(ended) == len(rows):
            return text
        mean = sum(row.seconds for row in ended) / len(ended)
        running = sum(row.eta() or mean for row in rows if row.status == "running")
        waiting = mean * sum(row.status == "waiting" for row in rows)
        return f"{text}, ETA {clock_time((running + waiting) / self.parallel)}"

    def _refresh(self, *, always: bool = False) -> None:
        if self._is_live and (always or time.monotonic() - self._drawn >= REFRESH_SECONDS):
            self._live.refresh()
            self._drawn = time.monotonic()

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False)


class TableDisplay(Display):
    """The display of a run that is one row of a table: only its progress is shown."""

    def __init__(self, table: SweepTable, name: str):
        super().__init__(quiet=True)
        self._table, self._name = table, name

    def progress(
        self, label: str, done: int, total: int, status: Sequence[str] = (), details: Sequence[str] = ()
    ) -> None:
        """Show the progress of training; preparing data is not shown."""
        if label == "training":
            self._table.update(self._name, done, total, status[0].removeprefix("loss ") if status else "")
