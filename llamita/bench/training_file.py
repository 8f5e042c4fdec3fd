"""The file that a measurement is kept in, and what became of its numbers since an older one."""

import json
import math
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llamita.bench.training_results import MIB, Growth, Row, WholeRun, header, line
from llamita.errors import UserError
from llamita.files import write_atomically

FORMAT = "llamita bench train, 1"
NOTABLE = 0.05  # a change beyond it is no noise
SMALL_PART = 0.02  # of a step: what is shorter is too noisy to complain of


@dataclass(frozen=True)
class Number:
    """A number that is compared with what it was."""

    name: str
    value: float
    less_is_better: bool = True
    is_judged: bool = True
    """Whether to complain where it became worse: a peer's number and a tiny part's are only shown."""

    def is_worse(self, before: float) -> bool:
        """Whether it became notably slower or larger than `before`."""
        change = self.value / before if self.less_is_better else before / self.value
        return self.is_judged and change > 1 + NOTABLE


@dataclass
class Results:
    """All that one run of the command measured."""

    rows: list[Row] = field(default_factory=list)
    growth: Growth | None = None
    whole_run: WholeRun | None = None

    def numbers(self) -> Iterator[Number]:
        """What is compared, each under a name that says of what it is."""
        for row in self.rows:
            yield from _numbers_of_row(row)
        if self.growth:
            for shape, ratios in zip(self.growth.shapes[1:], self.growth.ratios[1:], strict=True):
                name = f"{shape.name}: time a token at {shape.max_seq_len:,}, times that at the first context"
                yield Number(name, ratios[len(ratios) // 2])
        if self.whole_run:
            yield Number(f"llamita train, {self.whole_run.steps:,} steps, seconds", self.whole_run.whole)

    def write(self, file: Path) -> None:
        """Keep everything as JSON. Raises `UserError` where that is not possible."""
        numbers = {number.name: number.value for number in self.numbers()}
        content = {"format": FORMAT, "machine": self.machine(), "numbers": numbers, **asdict(self)}
        content["date"] = datetime.now().astimezone().isoformat(timespec="seconds")
        write_atomically(file, (json.dumps(content, indent=1) + "\n").encode())

    def machine(self) -> dict[str, Any]:
        """Where, and with which versions, it was measured."""
        return {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": self.rows[0].threads if self.rows else None,
            **{package: version(package) for package in ("torch", "transformers")},
        }

    def compared(self, old: dict[str, Any]) -> Iterator[str]:
        """Lines: each number beside the one that an older file has for it, and what became worse."""
        if others := [name for name, value in self.machine().items() if old["machine"].get(name) != value]:
            said = ", ".join(f"{name} {old['machine'].get(name)}, now {self.machine()[name]}" for name in others)
            yield f"The older measurement is of another machine or other versions ({said}).\n"
        before: dict[str, float] = old["numbers"]
        known = [number for number in self.numbers() if number.name in before]
        yield header(("what", "now", "before", "change"))
        for number in known:
            change = f"{number.value / before[number.name] - 1:+.1%}"
            yield line([number.name, f"{number.value:,.4g}", f"{before[number.name]:,.4g}", change])
        yield ""
        worse = [number.name for number in known if number.is_worse(before[number.name])]
        yield f"More than {NOTABLE:.0%} slower or larger: {'; '.join(worse) or 'nothing'}."


def _numbers_of_row(row: Row) -> Iterator[Number]:
    ours, *peers = row.contenders
    for name, each in row.contenders.items():
        yield Number(f"{row.name}: {name}, ms a step", 1e3 * each.step, is_judged=name == ours)
        yield Number(f"{row.name}: {name}, MiB", each.memory / MIB, is_judged=name == ours)
    for peer in peers:
        ratios = row.ratios(peer)
        yield Number(f"{row.name}: times as fast as {peer}", ratios[len(ratios) // 2], less_is_better=False)
    yield Number(f"{row.name}: share of the matrix peak", row.peak_share(), less_is_better=False)
    for part, seconds in row.ours.parts.items():
        yield Number(f"{row.name}: {part}, ms", 1e3 * seconds, is_judged=seconds > SMALL_PART * row.ours.step)


def default_file() -> Path:
    """A name that no older measurement has."""
    return Path(f"bench-train-{datetime.now():%Y%m%d-%H%M%S}.json")


def check_writable(file: Path) -> None:
    """Raise `UserError` where `file` could not be written, before anything is measured."""
    if not file.parent.is_dir():
        raise UserError(f"--json {file}: there is no folder {file.parent}: make it first")
    if file.is_dir():
        raise UserError(f"--json {file}: that is a folder: name a file in it")


def read_results(file: Path) -> dict[str, Any]:
    """What an older run kept. Raises `UserError` where the file is missing or something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--against {file}: cannot be read ({error.strerror})") from None
    except ValueError:  # also what is no UTF-8
        raise UserError(f"--against {file}: not JSON: give a file that `llamita bench train` wrote") from None
    if not _is_of_a_measurement(content):
        raise UserError(f"--against {file}: no measurement of training: give a file that `llamita bench train` wrote")
    return content


def _is_of_a_measurement(content: Any) -> bool:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return False
    machine, numbers = content.get("machine"), content.get("numbers")
    return isinstance(machine, dict) and isinstance(numbers, dict) and all(map(_is_measured, numbers.values()))


def _is_measured(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


def _processor() -> str:
    """What the processor is called."""
    listed = Path("/proc/cpuinfo")
    names = [row for row in listed.read_text().splitlines() if row.startswith("model name")] if listed.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
