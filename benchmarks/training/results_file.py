"""The results file, and the comparison with an older one."""

import json
import math
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from common.command import UsageError
from common.markdown import header, line
from training.results import MIB, BaselineRow, BusyRow, ContextScaling, FullRun, Row

FORMAT = "llamita bench train, 1"
THRESHOLD = 0.05  # larger changes are not noise
SMALL_PART = 0.02  # of a step: shorter parts are too noisy to judge


@dataclass(frozen=True)
class Number:
    """A number that is compared with its older value."""

    name: str
    value: float
    less_is_better: bool = True
    is_judged: bool = True
    """Whether a regression is reported: a peer's numbers and those of tiny parts are only shown."""

    def is_worse(self, before: float) -> bool:
        """Whether it is significantly slower or larger than `before`."""
        change = self.value / before if self.less_is_better else before / self.value
        return self.is_judged and change > 1 + THRESHOLD


@dataclass
class Results:
    """All results of one call of the script."""

    rows: list[Row] = field(default_factory=list)
    scaling: ContextScaling | None = None
    full_run: FullRun | None = None
    baseline: list[BaselineRow] = field(default_factory=list)
    busy: list[BusyRow] = field(default_factory=list)

    def numbers(self) -> Iterator[Number]:
        """The numbers to compare, with their full names."""
        for row in self.rows:
            yield from _numbers_of_row(row)
        if self.scaling:
            for shape, ratios in zip(self.scaling.shapes[1:], self.scaling.ratios[1:], strict=True):
                name = f"{shape.name}: time a token at {shape.max_seq_len:,}, times that at the first context"
                yield Number(name, ratios[len(ratios) // 2])
        if self.full_run:
            yield Number(f"llamita train, {self.full_run.steps:,} steps, seconds", self.full_run.command)
        for row in self.baseline:
            yield Number(f"{row.name}: speed, new/old", row.speed.median, less_is_better=False)
            yield Number(f"{row.name}: memory, new/old", row.memory_ratio)
        for row in self.busy:
            yield from _numbers_of_busy_row(row)

    def write(self, file: Path) -> None:
        """Write all results as JSON. Raises `UsageError` if that fails."""
        numbers = {number.name: number.value for number in self.numbers()}
        content = {"format": FORMAT, "machine": self.machine(), "numbers": numbers, **asdict(self)}
        content["date"] = datetime.now().astimezone().isoformat(timespec="seconds")
        write_json(file, content)

    def machine(self) -> dict[str, Any]:
        """The machine and versions of this measurement."""
        return {**describe_machine(), "threads": self.rows[0].threads if self.rows else None}

    def compared(self, old: dict[str, Any]) -> Iterator[str]:
        """Lines: each number next to that of an older file, then the regressions."""
        if others := [name for name, value in self.machine().items() if old["machine"].get(name) != value]:
            differences = ", ".join(f"{name} {old['machine'].get(name)}, now {self.machine()[name]}" for name in others)
            yield f"The older measurement is from another machine or other versions ({differences}).\n"
        before: dict[str, float] = old["numbers"]
        known = [number for number in self.numbers() if number.name in before]
        yield header(("what", "now", "before", "change"))
        for number in known:
            change = f"{number.value / before[number.name] - 1:+.1%}"
            yield line([number.name, f"{number.value:,.4g}", f"{before[number.name]:,.4g}", change])
        yield ""
        worse = [number.name for number in known if number.is_worse(before[number.name])]
        yield f"More than {THRESHOLD:.0%} slower or larger: {'; '.join(worse) or 'nothing'}."


def _numbers_of_row(row: Row) -> Iterator[Number]:
    ours, *peers = row.candidates
    for name, each in row.candidates.items():
        yield Number(f"{row.name}: {name}, ms a step", 1e3 * each.step, is_judged=name == ours)
        yield Number(f"{row.name}: {name}, MiB", each.memory / MIB, is_judged=name == ours)
    for peer in peers:
        ratios = row.ratios(peer)
        yield Number(f"{row.name}: speed-up over {peer}", ratios[len(ratios) // 2], less_is_better=False)
    yield Number(f"{row.name}: MFU", row.mfu(), less_is_better=False)
    for part, seconds in row.ours.parts.items():
        yield Number(f"{row.name}: {part}, ms", 1e3 * seconds, is_judged=seconds > SMALL_PART * row.ours.step)


def _numbers_of_busy_row(row: BusyRow) -> Iterator[Number]:
    for name in row.candidates:
        for load in ("idle", "busy"):
            is_ours = name.startswith("llamita")
            yield Number(f"{row.name}: {name}, {load}, tokens/s", row.speed(name, load), False, is_ours)


def default_file() -> Path:
    """A new file name, from date and time."""
    return Path(f"bench-train-{datetime.now():%Y%m%d-%H%M%S}.json")


def check_writable(file: Path) -> None:
    """Raise `UsageError` if `file` could not be written, before anything is measured."""
    if not file.parent.is_dir():
        raise UsageError(f"--json {file}: folder {file.parent} does not exist: create it first")
    if file.is_dir():
        raise UsageError(f"--json {file}: is a folder: name a file in it")


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write the file atomically. Raises `UsageError` if it cannot be written."""
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8", newline="\n")
        temporary.replace(file)
    except OSError as error:
        raise UsageError(f"{file}: could not be written ({error.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)


def read_results(file: Path) -> dict[str, Any]:
    """Read an older results file. Raises `UsageError` if it is missing or something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--against {file}: cannot be read ({error.strerror})") from None
    except ValueError:  # including invalid UTF-8
        raise UsageError(f"--against {file}: not JSON: give a file that benchmarks/train.py wrote") from None
    if not _is_of_a_measurement(content):
        raise UsageError(f"--against {file}: not a results file: give a file that benchmarks/train.py wrote")
    return content


def _is_of_a_measurement(content: Any) -> bool:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return False
    machine, numbers = content.get("machine"), content.get("numbers")
    return isinstance(machine, dict) and isinstance(numbers, dict) and all(map(_is_measured, numbers.values()))


def _is_measured(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


def describe_machine() -> dict[str, Any]:
    """Processor, cores, and versions."""
    versions = {package: _version(package) for package in ("torch", "transformers")}
    return {"processor": _processor(), "cores": os.cpu_count(), **versions}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    names = [row for row in listed.read_text().splitlines() if row.startswith("model name")] if listed.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
