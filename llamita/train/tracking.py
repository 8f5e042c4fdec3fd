"""`--track`: the lines of metrics.jsonl, which stays the truth, mirrored into a tracker.

tracker.json in the run directory records which tracked run continues, and up to which line it has the metrics:
{"tracker": "wandb", "id": "3f9c0a1e", "step": 500, "is_evaluation": true}
A resumed run logs the steps since its checkpoint again, with the same numbers; the tracker has them already.
"""

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llamita.errors import UserError
from llamita.files import write_json
from llamita.train.run_directory import RunDirectory
from llamita.train.trackers import TRACKERS, Tracker, numbers, seconds

TRACKER_FILE = "tracker.json"


@dataclass(frozen=True)
class Mark:
    """How far a tracked run has the metrics: all lines up to this one. Step -1: none."""

    tracker: str
    id: str
    step: int = -1
    is_evaluation: bool = False

    @classmethod
    def read(cls, directory: Path) -> "Mark | None":
        """The mark in tracker.json; None if there is none, or if it is damaged."""
        try:
            mark = cls(**json.loads((directory / TRACKER_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return mark if isinstance(mark.step, int) else None

    def write(self, directory: Path) -> None:
        """Write tracker.json, atomically."""
        write_json(directory / TRACKER_FILE, asdict(self))

    def at(self, row: Mapping[str, Any]) -> "Mark":
        """The mark after this line of metrics.jsonl. The evaluation of a step is logged after its training."""
        return replace(self, step=row["step"], is_evaluation=row.get("val_loss") is not None)

    def covers(self, row: Mapping[str, Any]) -> bool:
        """Whether the tracked run has this line already."""
        return (row["step"], row.get("val_loss") is not None) <= (self.step, self.is_evaluation)


class Tracking:
    """Mirrors metrics into a tracker. One that fails is given up with one warning; training continues."""

    def __init__(self) -> None:
        """Mirrors nothing until `start`."""
        self._tracker: Tracker | None = None

    def start(
        self, tracker: str, directory: RunDirectory, settings: Mapping[str, Any], warn: Callable[[str], object]
    ) -> None:
        """Continue the tracked run, or begin one, and give it the lines that it lacks.

        `tracker` is a value of the setting `track`; `settings` are shown beside the run, and `warn` prints a line.
        """
        self._path, self._warn, self._mark = directory.path, warn, Mark(tracker, uuid.uuid4().hex[:8])
        if tracker != "none":
            self._attempt(lambda: self._start(directory, settings))

    def log(self, row: Mapping[str, Any]) -> None:
        """Mirror a line of metrics.jsonl, unless the tracked run has it already."""
        tracker = self._tracker
        if tracker is None or self._mark.covers(row):
            return
        self._mark = self._mark.at(row)
        self._mark.write(self._path)  # first: a kill between the two loses a point, and doubles none
        self._attempt(lambda: tracker.log(numbers(row), row["step"], seconds(row)))

    def close(self) -> None:
        """End the tracked run."""
        if self._tracker is not None:
            self._attempt(self._tracker.close)
            self._tracker = None

    def _start(self, directory: RunDirectory, settings: Mapping[str, Any]) -> None:
        rows, before = directory.metrics.rows(), Mark.read(directory.path)
        # Without lines, the run starts from scratch, and what an earlier attempt tracked is not part of it.
        continues = bool(rows) and before is not None and before.tracker == self._mark.tracker
        self._mark = before if continues and before else self._mark
        make = TRACKERS[self._mark.tracker]
        self._tracker = make(directory.path, self._mark.id, settings, continues=continues)
        for row in rows:
            self.log(row)

    def _attempt(self, call: Callable[[], object]) -> None:
        """Call it; after any error, say so once and track no further."""
        try:
            call()
        except Exception as error:
            self._tracker = None
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            line = " ".join(reason.split())
            self._warn(f"warning: {self._mark.tracker} failed, and is no longer used ({line}); training continues")
