"""Client side of the worker processes."""

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
    """A process that builds a candidate and measures it on request. Raises `UsageError` if it cannot be built."""

    def __init__(self, name: str, task: Task):
        self.name = name
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  (closed below)
        self._process = subprocess.Popen(
            # -P: do not import from the working directory, which may contain another llamita.
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
        """The facts that it reports after building its candidate."""
        return self._answer()

    def ask(self, what: str) -> dict[str, Any]:
        """Request `measure` or `finish` -> the answer."""
        self._send({"do": what})
        return self._answer()

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _send(self, content: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            print(json.dumps(content), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            self._process.wait()  # the cause is reported when the answer is missing

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        content = json.loads(line) if line else {"failure": self._failure()}
        if "mistake" in content:
            raise UsageError(content["mistake"])
        if "failure" in content:
            raise RuntimeError(f"{self.name} failed:\n{content['failure']}")
        return content

    def _failure(self) -> str:
        code = self._process.wait()
        if code == KILLED:
            raise UsageError(f"{self.name} was killed, probably out of memory: choose smaller --shapes or --contexts")
        self._errors.seek(0)
        return f"exit code {code}\n{self._errors.read()[-4000:]}"


def environment(source: Path | None, cache: Path | None) -> dict[str, str]:
    """The user's environment, with benchmarks and llamita first on Python's path."""
    paths = [str(BENCHMARKS), str(source or llamita_source()), os.environ.get("PYTHONPATH", "")]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # Kernels, too: versions that share a folder delete each other's kernels.
    return {**found, "LLAMITA_CACHE": str(cache), "LLAMITA_KERNEL_CACHE": str(cache / "kernels")} if cache else found


def llamita_source() -> Path:
    """The folder to import llamita from: where it is installed, else this checkout. Does not import it."""
    spec = importlib.util.find_spec("llamita")
    return Path(spec.origin).resolve().parents[1] if spec and spec.origin else BENCHMARKS.parent


def start(workers: dict[str, Worker], name: str, task: Task) -> dict[str, Any]:
    """Start a worker and add it to `workers` -> its facts.

    A worker that had to compile llamita's kernels still has the compiler in memory, so it is replaced by a new one,
    which loads the kernels from the cache, as all later runs do.
    """
    workers[name] = Worker(name, task)
    facts = workers[name].facts()
    if facts.get("has_compiled"):
        workers[name].close()
        workers[name] = Worker(name, task)
        facts = workers[name].facts()
    return facts


def write_inputs(task: Task) -> None:
    """Write weights, tokens and batch order to the task's folder, in a separate process."""
    workers: dict[str, Worker] = {}
    with closing_all(workers):
        start(workers, "inputs", replace(task, kind="inputs"))


@contextmanager
def closing_all(workers: Mapping[str, Worker]) -> Iterator[None]:
    """Kill all workers in the dictionary at the end, also after an error or Ctrl-C."""
    try:
        yield
    finally:
        for worker in workers.values():
            worker.close()
