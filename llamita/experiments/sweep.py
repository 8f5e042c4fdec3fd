"""A sweep: a directory of runs that resumes after a kill without repeating those that have ended.

sweep.toml  no-norm-seed0/  no-norm-seed1/  …      each a complete run directory, with its outcome.json
"""

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import tomli_w

from llamita.code_digest import changed_files, code_digest, name_files, running_code
from llamita.config import RunConfig, read_toml, replace
from llamita.errors import UserError
from llamita.experiments.job import Job
from llamita.experiments.plan import Plan, PlannedRun
from llamita.experiments.result import Outcome, Result
from llamita.experiments.runner import Runner, choose_runner
from llamita.experiments.table import SweepTable
from llamita.file_lock import file_lock
from llamita.files import write_atomically

MANIFEST_FILE, LOCK_FILE = "sweep.toml", ".lock"


class Sweep:
    """A sweep on disk. `Sweep.open` begins or resumes one, `Sweep.load` reads one."""

    def __init__(self, path: Path, plan: Plan, code: dict[str, str], command: str = ""):
        self.path, self.plan, self.code, self.command = path, plan, code, command

    @classmethod
    def open(cls, directory: str | Path, plan: Plan, command: str = "") -> "Sweep":
        """The sweep of `plan` in `directory`: a new one, or the one there with the same plan or with fewer seeds.

        `command`: the command line that computes it, for the report.
        Raises `UserError` if the directory holds something else, or a sweep with other settings.
        """
        path = Path(directory)
        if not (path / MANIFEST_FILE).exists():
            if path.exists() and (not path.is_dir() or any(map(_is_foreign, path.iterdir()))):
                raise UserError(f"{path}: is not empty, and holds no sweep: choose another --output_dir")
            return cls(path, plan, running_code(), command)
        sweep = cls.load(path)
        if changed := sweep.plan.differences(plan):
            raise UserError(
                f"{path}: holds a sweep with other settings: {', '.join(changed)}; choose another --output_dir or "
                "the same settings"
            )
        return cls(path, plan, sweep.code, command or sweep.command)

    @classmethod
    def load(cls, directory: str | Path) -> "Sweep":
        """The sweep in `directory`. Raises `UserError` if there is none, or if its manifest is damaged."""
        path = Path(directory)
        if not (path / MANIFEST_FILE).exists():
            raise UserError(f"{path}: not a sweep, {MANIFEST_FILE} is missing")
        tables = read_toml(path / MANIFEST_FILE)
        try:
            return cls(path, Plan.from_tables(tables), tables["code"], tables.get("command", ""))
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{path / MANIFEST_FILE}: damaged: restore it, or choose another --output_dir") from None

    def config(self, run: PlannedRun) -> RunConfig:
        """The configuration that trains one of the runs in its directory."""
        return replace(self.plan.config(run), output_dir=str(self.path / run.name))

    def results(self) -> list[Result]:
        """What is known of every run, in the order of the plan."""
        return [
            Result(run, self.plan.config(run), self.path / run.name, Outcome.read(self.path / run.name))
            for run in self.plan.runs
        ]

    def remaining(self, names: Collection[str] | None = None) -> list[PlannedRun]:
        """The runs to compute (only those of `names`): those that neither finished nor diverged; failed ones too."""
        chosen = [result for result in self.results() if names is None or result.run.name in names]
        return [result.run for result in chosen if result.status in ("planned", "failed")]

    def run(self, runner: Runner | None = None, names: Collection[str] | None = None) -> list[Result]:
        """Compute the runs (only those of `names`) that have not ended yet -> the results of all runs of the sweep.

        `runner` computes them; by default `choose_runner` chooses one: each GPU trains a run of its own, a CPU one
        after the other. A run that fails or diverges is recorded as such, and the sweep continues. Raises `UserError`
        if another process computes this sweep, or if the code has changed since it began and runs remain.
        """
        runs = self.remaining(names)
        if runs:
            self._require_same_code()
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                with file_lock(self.path / LOCK_FILE):
                    self._write()
                    jobs = [Job(run.name, self.config(run), run.code) for run in runs]
                    with SweepTable(f"{self.plan.kind} {self.path}", [job.name for job in jobs]) as table:
                        (runner or choose_runner(self.plan.base)).run(jobs, table)
            except BlockingIOError:
                raise UserError(f"{self.path}: another process computes this sweep; wait for it") from None
        return self.results()

    def _write(self) -> None:
        facts = {"command": self.command, "code_digest": code_digest(self.code), "code": self.code}
        tables: dict[str, Any] = {**self.plan.tables(), **facts}
        content = tomli_w.dumps(tables).encode()
        file = self.path / MANIFEST_FILE
        if not file.exists() or tomllib.loads(file.read_text(encoding="utf-8")) != tables:
            write_atomically(file, content)

    def _require_same_code(self) -> None:
        if changed := changed_files(self.code, running_code()):
            raise UserError(
                f"{self.path}: the code has changed since this sweep began ({name_files(changed)}), and its runs would "
                "not be comparable: choose another --output_dir"
            )


def _is_foreign(path: Path) -> bool:
    """Whether this is not part of a sweep that has yet to begin: neither its lock nor a sweep within it (tuning)."""
    return path.name != LOCK_FILE and not (path / MANIFEST_FILE).exists()
