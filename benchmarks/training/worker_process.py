"""Worker processes, as the process that asks them sees them."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from common.command import UsageError
from training.shapes import Task

BENCHMARKS = Path(__file__).resolve().parents[1]
KILLED = -9


class Worker:
    """A process that builds a candidate and measures it when asked. Raises `UsageError` if it cannot be built."""

    def __init__(self, name: str, task: Task):
        self.name = name
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  (closed below)
        self._process = subprocess.Popen(
            # -P: not from the working directory, which may hold another llamita than the one that is asked for.
            [sys.executable, "-P", "-m", "training.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=environment(task.source, task.cache),
        )
        content = asdict(task)
        self._send(content | {name: str(value) for name, value in content.items() if isinstance(value, Path)})

    def facts(self) -> dict[str, Any]:
        """What it says when it has built its candidate."""
        return self._answer()

    def ask(self, what: str) -> dict[str, Any]:
        """Let it `measure` or `finish` -> its answer."""
        self._send({"do": what})
        return self._answer()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _send(self, content: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            print(json.dumps(content), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            self._process.wait()  # why it ended is reported when its answer is missing

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        content = json.loads(line) if line else {"failure": self._last_words()}
        if "mistake" in content:
            raise UsageError(content["mistake"])
        if "failure" in content:
            raise RuntimeError(f"{self.name} failed:\n{content['failure']}")
        return content

    def _last_words(self) -> str:
        code = self._process.wait()
        if code == KILLED:
            raise UsageError(
                f"{self.name} was killed, as happens when memory runs out: choose smaller --shapes or --contexts"
            )
        self._errors.seek(0)
        return f"it ended with {code}\n{self._errors.read()[-4000:]}"


def environment(source: Path | None, cache: Path | None) -> dict[str, str]:
    """The user's environment, in which Python finds the benchmarks and llamita, before any that is installed."""
    paths = [str(BENCHMARKS), str(source or llamita_source()), os.environ.get("PYTHONPATH", "")]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # Kernels, too: versions that share a folder delete each other's.
    return {**found, "LLAMITA_CACHE": str(cache), "LLAMITA_KERNEL_CACHE": str(cache / "kernels")} if cache else found


def llamita_source() -> Path:
    """The folder that llamita is imported from: where it is installed, else this checkout. It is not imported here."""
    spec = importlib.util.find_spec("llamita")
    return Path(spec.origin).resolve().parents[1] if spec and spec.origin else BENCHMARKS.parent


def start(workers: dict[str, Worker], name: str, task: Task) -> dict[str, Any]:
    """Start a worker and keep it in `workers` -> its facts.

    One that had to compile llamita's kernels holds the compiler in memory; its successor finds them compiled, as all
    later runs of a user do, and takes its place.
    """
    workers[name] = Worker(name, task)
    facts = workers[name].facts()
    if facts.get("has_compiled"):
        workers[name].close()
        workers[name] = Worker(name, task)
        facts = workers[name].facts()
    return facts


def write_inputs(task: Task) -> None:
    """Fill the task's folder with weights, tokens and order, in a process that then ends."""
    workers: dict[str, Worker] = {}
    with closing_all(workers):
        start(workers, "inputs", replace(task, kind="inputs"))


@contextmanager
def closing_all(workers: Mapping[str, Worker]) -> Iterator[None]:
    """End the workers that are in the dictionary by then, also after an error or Ctrl-C."""
    try:
        yield
    finally:
        for worker in workers.values():
            worker.close()
