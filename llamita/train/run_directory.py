"""A run is a directory: its configuration, tokenizer, logs and checkpoints.

config.toml  tokenizer.json  metrics.jsonl  samples.jsonl  best.json  step_00000500/  step_00001000/
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from llamita.config import ONE_START, RunConfig, read_toml, write_toml
from llamita.errors import UserError
from llamita.file_lock import file_lock
from llamita.files import remove_left_overs, write_json
from llamita.train.checkpoint import MANIFEST_FILE, REPLACED, Checkpoint, restore, verify

CONFIG_FILE, TOKENIZER_FILE = "config.toml", "tokenizer.json"
METRICS_FILE, SAMPLES_FILE = "metrics.jsonl", "samples.jsonl"
BEST_FILE = "best.json"
STEP = "step_"


class Best(NamedTuple):
    """The lowest validation loss of a run, in nats per token, and the step that had it."""

    val_loss: float
    step: int


class RunDirectory:
    """The directory of one run.

    `metrics.rows()` and `samples.rows()` are the lines of metrics.jsonl and samples.jsonl, one dictionary each, and
    raise `UserError` if one is damaged. Losses are in nats per token, None where a step did not measure them. A
    `timestamp` is ISO 8601 with time zone; older versions of llamita logged seconds since 1970.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.metrics = JsonLines(self.path / METRICS_FILE, numbers=True)
        self.samples = JsonLines(self.path / SAMPLES_FILE)

    def exists(self) -> bool:
        """Whether there is a run here."""
        return (self.path / CONFIG_FILE).exists()

    def write_config(self, config: RunConfig, facts: dict[str, Any]) -> None:
        """Write config.toml: all settings, resolved, and under [facts] what was found out.

        Permissions for one start (`extend`, `new` and so on) are not settings of the run, and are left out.
        """
        tables = config.tables()
        tables["run"] = {name: value for name, value in tables["run"].items() if name not in ONE_START}
        write_toml(self.path / CONFIG_FILE, {**tables, "facts": facts})

    def add_facts(self, facts: dict[str, Any]) -> None:
        """Add to the facts in config.toml."""
        self.write_config(self.config(), {**self.facts(), **facts})

    def config(self) -> RunConfig:
        """The settings of this run. Raises `UserError` if there is no run here."""
        if not self.exists():
            raise UserError(f"{self.path}: not a run directory, {CONFIG_FILE} is missing")
        return RunConfig.from_toml(self.path / CONFIG_FILE)

    def facts(self) -> dict[str, Any]:
        """What was found out when the run began: loss_floor, device, threads and so on. Raises `UserError`."""
        self.config()  # says what is wrong with the file
        return read_toml(self.path / CONFIG_FILE).get("facts", {})

    def max_steps(self) -> int:
        """The steps of the whole run, of one with a budget as last planned; 0 before its first plan."""
        if fixed := self.config().training.max_steps:
            return fixed
        plans = self.facts().get("lengths", [])
        return plans[-1][1] if plans else 0

    def checkpoint(self, step: int) -> Path:
        """The path of the checkpoint of this step."""
        return self.path / f"{STEP}{step:08d}"

    def steps(self) -> list[int]:
        """The steps of the checkpoints, oldest first; they may be damaged."""
        names = (path.name.removeprefix(STEP) for path in self.path.glob(f"{STEP}*") if path.is_dir())
        return sorted(int(name) for name in names if name.isdecimal())

    def has_checkpoints(self) -> bool:
        """Whether there is a checkpoint, damaged or not."""
        return any(self.path.glob(f"{STEP}*")) or any(self.path.glob(f".{STEP}[0-9]*{REPLACED}"))

    def newest_good(self) -> tuple[Checkpoint, list[str]] | None:
        """The newest intact checkpoint, and what is wrong with newer ones; None if there is no checkpoint."""
        complaints = []
        for step in reversed(self.steps()):
            try:
                return verify(self.checkpoint(step)), complaints
            except UserError as error:
                complaints.append(str(error))
        if complaints:
            raise UserError(f"{complaints[0]}; no other checkpoint is left: delete {self.path} to start from scratch")
        return None

    def best(self) -> Checkpoint:
        """The checkpoint with the lowest validation loss, else the newest intact one. Raises `UserError`."""
        newest = self.newest_good()
        if newest is None:
            raise UserError(f"{self.path}: this run has no checkpoint yet")
        manifest = newest[0].manifest
        marked = self.marked_best(manifest["step"])
        step = marked.step if marked else manifest.get("best_step", -1)  # as older versions recorded it
        best = self.checkpoint(step)
        return verify(best) if best.exists() and best != newest[0].path else newest[0]

    def mark_best(self, step: int, val_loss: float) -> None:
        """Mark the checkpoint of this step as the best, in a file that is written atomically."""
        mark = {"step": step, "val_loss": val_loss, "manifest_sha256": self._manifest_digest(step)}
        write_json(self.path / BEST_FILE, mark)

    def marked_best(self, newest: int) -> Best | None:
        """The checkpoint marked as the best; None if none is, if it is newer than `newest`, or if it was replaced."""
        try:
            mark = json.loads((self.path / BEST_FILE).read_text(encoding="utf-8"))
            best = Best(float(mark["val_loss"]), int(mark["step"]))
            valid = best.step <= newest and mark["manifest_sha256"] == self._manifest_digest(best.step)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return best if valid else None

    def _manifest_digest(self, step: int) -> str:
        return hashlib.sha256((self.checkpoint(step) / MANIFEST_FILE).read_bytes()).hexdigest()

    def truncate_logs(self, checkpoint: Checkpoint) -> None:
        """Cut the logs back to this checkpoint, including its own evaluation and samples."""
        manifest = checkpoint.manifest
        self.metrics.truncate(manifest["metrics_offset"], manifest["step"])
        self.samples.truncate(manifest["samples_offset"], manifest["step"])

    def clear_logs(self) -> None:
        """Empty the logs: the run starts from scratch."""
        self.metrics.truncate(0)
        self.samples.truncate(0)

    def prune(self, newest: int, best: int, keep_last: int = 2, *, spare_newer: bool = False) -> None:
        """Delete old checkpoints: all but the `best`, and the last `keep_last` up to `newest`.

        A `keep_last` of 0 keeps all. Those newer than `newest` are damaged: they are deleted when a good one is
        saved; `spare_newer` keeps them until then.
        """
        steps = self.steps()
        keep = {best, *[step for step in steps if step <= newest][-keep_last:]}
        for step in steps:
            if step not in keep and not (spare_newer and step > newest):
                # Renamed first, so that a kill leaves no half-deleted checkpoint under a valid name.
                self.checkpoint(step).rename(self.path / f".{STEP}{step:08d}.deleted")
        self._delete_hidden()

    def _delete_hidden(self) -> None:
        for left_over in self.path.glob(f".{STEP}[0-9]*"):
            shutil.rmtree(left_over)

    def _tidy(self) -> None:
        """Clean up after a killed process: complete checkpoints get their name back, partial ones are deleted."""
        for hidden in self.path.glob(f".{STEP}[0-9]*{REPLACED}"):
            restore(self.path / hidden.name.removeprefix(".").removesuffix(REPLACED))
        self._delete_hidden()
        for name in (CONFIG_FILE, TOKENIZER_FILE, BEST_FILE):
            remove_left_overs(self.path / name)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock this run for this process; another process gets a `UserError`. Released when the process ends.

        Cleans up after a process that was killed while it held the lock.
        """
        with ExitStack() as held:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                held.enter_context(file_lock(self.path / ".lock"))
            except BlockingIOError:
                raise UserError(
                    f"{self.path}: another process is training this run; wait for it, or choose another --output_dir"
                ) from None
            except OSError as error:
                raise UserError(f"{self.path}: cannot be used as a run directory ({error.strerror})") from None
            self._tidy()
            yield

    def is_held(self) -> bool:
        """Whether another process holds the lock."""
        try:
            with self.lock():
                return False
        except UserError:
            return True


class JsonLines:
    """A file of JSON objects, one per line. It may be cut off anywhere: `truncate` restores its end."""

    def __init__(self, path: Path, *, numbers: bool = False):
        self.path = path
        self._numbers = numbers  # whether all values are numbers or null

    def append(self, row: dict[str, Any]) -> None:
        """Append one line, complete or not at all. Raises `UserError` if the disk is full."""
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        try:
            with self.path.open("ab", buffering=0) as stream:
                start = stream.tell()
                if stream.write(line) != len(line):  # a full disk writes a part, without an error
                    stream.truncate(start)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise UserError(f"{self.path}: could not be written ({error.strerror}); checkpoints are kept") from None

    def offset(self) -> int:
        """The length of the file in bytes, flushed to disk."""
        if not self.path.exists():
            return 0
        with self.path.open("rb") as stream:
            os.fsync(stream.fileno())
        return self.path.stat().st_size

    def truncate(self, offset: int, step: int = -1) -> None:
        """Drop the lines after `offset`, the length at a checkpoint, except those of its `step`.

        Evaluation and samples are logged after the checkpoint of their step; later lines will be written again.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            stream.seek(offset)
            later = stream.read().split(b"\n")[:-1]  # after the last newline: a partial line
        for line in takewhile(lambda line: _is_of_step(line, step), later):
            offset += len(line) + 1
        os.truncate(self.path, min(offset, self.path.stat().st_size))

    def last_row(self) -> dict[str, Any] | None:
        """The last complete line, or None. Raises `UserError` if it is damaged."""
        lines = self._lines()
        return self._row(len(lines), lines[-1]) if lines else None

    def rows(self) -> list[dict[str, Any]]:
        """All complete lines. Raises `UserError` if one is damaged."""
        return [self._row(number, line) for number, line in enumerate(self._lines(), 1)]

    def _lines(self) -> list[str]:
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        # Not splitlines(): a sample may contain U+2028. What follows the last newline is a partial line.
        return text.split("\n")[:-1]

    def _row(self, number: int, line: str) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError:
            raise UserError(f"{self.path}: line {number} is not JSON ({line[:40]!r}): restore or delete it") from None
        if not isinstance(row, dict) or (self._numbers and not _is_metrics(row)):
            raise UserError(f"{self.path}: line {number} is not a log entry ({line[:40]!r}): restore or delete it")
        return row


def _is_of_step(line: bytes, step: int) -> bool:
    """Whether this is a complete line of the step: after a power cut, a file may end in anything."""
    try:
        return json.loads(line)["step"] == step
    except (ValueError, KeyError, TypeError):
        return False


def _is_metrics(row: dict[str, Any]) -> bool:
    """Whether it has a step, and nothing but numbers or null besides the timestamp."""
    values = {**row, "timestamp": None}.values()
    is_time = _is_timestamp(row.get("timestamp"))
    return isinstance(row.get("step"), int) and is_time and all(isinstance(v, int | float | None) for v in values)


def _is_timestamp(value: Any) -> bool:
    """Whether it is ISO 8601, or a number as in the logs of older versions, or null."""
    try:
        return isinstance(value, int | float | None) or bool(datetime.fromisoformat(value))
    except (TypeError, ValueError):
        return False


def timestamp() -> str:
    """The current time as ISO 8601 in UTC, e.g. "2026-11-26T17:35:28.123+00:00"."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def find_checkpoint(name: str | Path | None = None, runs: str | Path = "runs") -> Path:
    """The checkpoint folder that `name` stands for.

    `RUN` is the run's best one, `RUN/best` too, `RUN/latest` its newest, `RUN/step_00000500` that one; None is the best
    of the newest run in the folder `runs`. Raises `UserError` where there is none, or where the one named is damaged.
    """
    return find_verified(name, runs).path


def find_verified(name: str | Path | None = None, runs: str | Path = "runs") -> Checkpoint:
    """Like `find_checkpoint`, with the verified manifest, so that it need not be verified again."""
    path = Path(name) if name is not None else newest_run(runs)
    if path.name in ("latest", "best") and not path.parent.exists():
        raise UserError(f"{path.parent}: no such run")
    if path.name == "latest" and not path.exists():
        found = RunDirectory(path.parent).newest_good()
        if found is None:
            raise UserError(f"{path.parent}: this run has no checkpoint yet")
        return found[0]
    if path.name == "best" and not path.exists():
        path = path.parent
    if not path.exists():
        raise UserError(f"{path}: no such run or checkpoint")
    if not any((path / file).exists() for file in (CONFIG_FILE, MANIFEST_FILE)) and not path.name.startswith(STEP):
        raise UserError(f"{path}: neither a run nor a checkpoint: name a run, RUN/latest or RUN/{STEP}00000500")
    return RunDirectory(path).best() if (path / CONFIG_FILE).exists() else verify(path)


def newest_run(runs: str | Path = "runs") -> Path:
    """The run whose metrics were written last, at any depth: `--name a/b` makes runs/a/b-<hash>. Raises `UserError`."""
    logs = sorted((run / METRICS_FILE for run in _runs_under(Path(runs))), key=lambda log: log.stat().st_mtime)
    if not logs:
        raise UserError(f"no run found in {runs}/: train one with `llamita train`, or name it with --checkpoint")
    return logs[-1].parent


def _runs_under(folder: Path) -> Iterator[Path]:
    """Every run in a folder and in folders of it that are no runs. Links to runs count, links elsewhere do not."""
    for parent, names, _ in os.walk(folder):
        for name in list(names):
            if (Path(parent) / name / METRICS_FILE).is_file():
                yield Path(parent) / name
                names.remove(name)


def is_run_or_checkpoint(name: str) -> bool:
    """Whether this is the path of a run, RUN/latest, RUN/best or RUN/step_00000500, damaged or not."""
    parent, last = os.path.split(name.rstrip(os.sep))
    if last in ("latest", "best") or last.startswith(STEP):
        return _is_run(parent) or os.path.isfile(os.path.join(name, MANIFEST_FILE))
    return bool(name) and _is_run(name)


def _is_run(name: str) -> bool:
    """Whether it is a folder with the files that every run writes first."""  # os.path: a prompt may be no valid path
    return all(os.path.isfile(os.path.join(name, file)) for file in (CONFIG_FILE, TOKENIZER_FILE))
