"""What a person sees while a run goes on: a live bar on a terminal, plain lines in a pipe."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_LINES = 20  # how many lines of progress a piped run prints in all


class Display:
    """Prints lines, and shows how far a task of known length has come. With `quiet` it says nothing."""

    def __init__(self, quiet: bool = False):
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._label = ""
        self._last_line = 0

    def say(self, text: str = "") -> None:
        """Print a line; a bar stays below it."""
        self.console.print(text, markup=False)

    def progress(self, label: str, done: int, total: int, status: str = "") -> None:
        """Show that `done` of `total` is done. A new label begins a new bar; the last step ends it."""
        if label != self._label:
            self.close()
            self._label, self._last_line = label, done
        if self.console.is_terminal:
            self._draw(label, done, total, status)
        else:
            self._print(label, done, total, status)
        if done >= total:
            self.close()

    def close(self) -> None:
        """End the bar, also when a task was cut short."""
        if self._live is not None:
            self._live.stop()
        self._live, self._task, self._label = None, None, ""

    def _draw(self, label: str, done: int, total: int, status: str) -> None:
        if self._live is None or self._task is None:
            columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}/{task.total:,}")
            times = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[status]}")
            live = Progress(*columns, *times, console=self.console, transient=True)
            live.start()
            self._live, self._task = live, live.add_task(label, total=total, completed=done, status=status)
        self._live.update(self._task, completed=done, status=status)

    def _print(self, label: str, done: int, total: int, status: str) -> None:
        # Only tasks that have something to tell are worth a line each time in a log.
        if status and (done - self._last_line >= total / PLAIN_LINES or done >= total):
            self._last_line = done
            self.say(f"{label} {done:,}/{total:,}  {status}")
