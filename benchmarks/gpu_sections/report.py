"""Run each section in a separate process, and write the report as Markdown and JSON."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from common.command import UsageError
from common.markdown import header, line
from gpu_sections import SECTIONS
from gpu_sections.section import Section, Setting
from training.results_file import describe_machine, write_json
from training.worker_process import environment

MARKDOWN, NUMBERS = "gpu-report.md", "gpu-report.json"


@dataclass
class Report:
    """All sections so far."""

    device: str
    """The name of the GPU, or a note that there is none."""
    sections: dict[str, Section] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether any section failed."""
        return any(section.status == "failed" for section in self.sections.values())

    def markdown(self) -> Iterator[str]:
        """Lines: a table of all sections, then the results of each."""
        machine = ", ".join(f"{name} {value}" for name, value in describe_machine().items())
        yield f"# GPU report\n\n{self.device}; {machine}; {datetime.now():%Y-%m-%d %H:%M}\n"
        yield header(("section", "status", "seconds", "summary"))
        for name, section in self.sections.items():
            yield line([SECTIONS[name], section.status, f"{self.seconds[name]:.0f}", section.summary.replace("|", "/")])
        for name, section in self.sections.items():
            yield f"\n## {SECTIONS[name]}\n"
            yield from section.lines or [section.summary]

    def write(self, folder: Path) -> None:
        """Write both files; called after each section, so that a later crash loses nothing."""
        (folder / MARKDOWN).write_text("\n".join(self.markdown()) + "\n", encoding="utf-8", newline="\n")
        sections = {name: {**asdict(each), "seconds": self.seconds[name]} for name, each in self.sections.items()}
        write_json(folder / NUMBERS, {"device": self.device, "machine": describe_machine(), "sections": sections})


def write_report(names: Iterable[str], report: Report, setting: Setting, folder: Path, limit: float) -> Iterator[str]:
    """Run the sections one by one, at most `limit` seconds each -> a line for each when it ends."""
    for name in names:
        started = time.monotonic()
        section = run_section(name, setting, limit)
        report.sections[name], report.seconds[name] = section, time.monotonic() - started
        report.write(folder)
        yield f"{section.status}: {SECTIONS[name]} ({report.seconds[name]:.0f} s): {section.summary}"


def run_section(name: str, setting: Setting, limit: float) -> Section:
    """Run one section in a separate process: after a GPU error, a process cannot use the GPU any more."""
    with tempfile.TemporaryDirectory(dir=setting.folder or None) as folder:
        result, own = Path(folder) / "result.json", Path(folder) / "work"
        own.mkdir()
        content = json.dumps(asdict(replace(setting, folder=str(own))))
        words = [sys.executable, "-P", "-m", "gpu_sections.run", name, str(result)]
        try:
            done = subprocess.run(words, input=content, env=environment(None, own / "cache"), capture_output=True,
                                  text=True, timeout=limit)  # fmt: skip
        except subprocess.TimeoutExpired:
            return Section("failed", f"not finished after {limit:.0f} s")
        if not result.exists():
            tail = (done.stdout + done.stderr).splitlines()[-30:]
            return Section("failed", f"its process ended with {done.returncode}", ["```", *tail, "```"])
        return Section(**json.loads(result.read_text(encoding="utf-8")))


def choose_sections(names: list[str]) -> list[str]:
    """These sections in the order of the report; all if there are none. Raises `UsageError` for unknown ones."""
    if unknown := [name for name in names if name not in SECTIONS]:
        raise UsageError(f"--sections: {unknown[0]!r} is unknown: choose from {', '.join(SECTIONS)}")
    return [name for name in SECTIONS if name in names or not names]


def describe_device(toy: bool) -> tuple[str, str]:
    """(torch device, its name): the first NVIDIA GPU, or the CPU if there is none or `toy`."""
    import torch

    if toy or not torch.cuda.is_available():
        return "cpu", "toy size on the CPU" + ("" if toy else ": no CUDA device")
    properties: Any = torch.cuda.get_device_properties(0)
    return "cuda", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
