"""What a report is about: runs, and sweeps of runs, found by their paths."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from llamita.errors import UserError
from llamita.experiments.plan import PlannedRun
from llamita.experiments.result import Outcome, Result
from llamita.experiments.sweep import MANIFEST_FILE, Sweep
from llamita.file_lock import file_lock
from llamita.train import RunDirectory

LOCK_FILE = ".lock"


@dataclass(frozen=True)
class Entry:
    """A run of the report: what is known of it, its `name` there, and the `group` that gets one colour."""

    result: Result
    name: str
    group: str

    @property
    def has_started(self) -> bool:
        """Whether there is a run directory with settings to show."""
        return RunDirectory(self.result.path).exists()

    @cached_property
    def status(self) -> str:
        """finished, diverged, failed, training, stopped or planned."""
        result = self.result
        if result.status != "planned":
            return result.status
        if not self.has_started:
            return "planned"
        if 0 < RunDirectory(result.path).max_steps() <= result.step:
            return "finished"
        return "training" if _is_locked(result.path / LOCK_FILE) else "stopped"


@dataclass(frozen=True)
class Material:
    """All that a report is about. `paths` are those that the user named."""

    paths: Sequence[Path]
    entries: Sequence[Entry]
    sweeps: Sequence[Sweep]

    @property
    def started(self) -> list[Entry]:
        """The runs that have settings to show."""
        return [entry for entry in self.entries if entry.has_started]

    @property
    def groups(self) -> dict[str, list[Entry]]:
        """The runs by group, in the order in which they are shown."""
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.group, []).append(entry)
        return found


def gather(paths: Sequence[Path]) -> Material:
    """The runs and sweeps at `paths`; one that is named twice counts once.

    Raises `UserError` for a path that is neither, and for sweeps and runs of which none has started.
    """
    unique = list({path.resolve(): path for path in paths}.values())
    sweeps = {path: Sweep.load(path) for path in unique if (path / MANIFEST_FILE).exists()}
    of_sweeps = {result.path.resolve() for sweep in sweeps.values() for result in sweep.results()}
    entries: list[Entry] = []
    for path in unique:
        if path in sweeps:
            entries += _entries_of(sweeps[path], prefix=f"{_name(path)}/" if len(unique) > 1 else "")
        elif path.resolve() not in of_sweeps:
            entries.append(_entry(path))
    material = Material(unique, _with_unique_names(entries), list(sweeps.values()))
    if not material.started:
        raise UserError(f"{unique[0]}: no run of this sweep has started yet: there is nothing to report")
    return material


def _entries_of(sweep: Sweep, prefix: str) -> list[Entry]:
    results = sweep.results()
    return [Entry(result, prefix + result.run.name, prefix + result.run.group) for result in results]


def _entry(path: Path) -> Entry:
    """A run that belongs to no sweep of the report."""
    directory = RunDirectory(path)
    if not directory.exists():
        missing = "neither a run nor a sweep" if path.exists() else "no such run or sweep"
        raise UserError(f"{path}: {missing}: name directories that `llamita train` or a sweep has written")
    config, name = directory.config(), _name(path)
    planned = PlannedRun(name, name, config.training.seed)
    return Entry(Result(planned, config, path, Outcome.read(path)), name, name)


def _with_unique_names(entries: Sequence[Entry]) -> list[Entry]:
    """Where two runs have the same name, their paths in its place."""
    names = [entry.name for entry in entries]
    return [
        Entry(entry.result, *[str(entry.result.path)] * 2) if names.count(entry.name) > 1 else entry
        for entry in entries
    ]


def _name(path: Path) -> str:
    return path.name or path.resolve().name


def _is_locked(file: Path) -> bool:
    """Whether a process that trains holds the lock of a run."""
    if not os.access(file, os.W_OK):
        return False
    try:
        with file_lock(file):
            return False
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
