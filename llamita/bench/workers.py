"""The processes that measure, as the one that asks them sees them."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from llamita.bench.shapes import Task
from llamita.errors import UserError


class Worker:
    """A process that has built its contender and waits for its turns. Raises `UserError` where it cannot be built."""

    def __init__(self, name: str, task: Task):
        self.name = name
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  (closed below)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "llamita.bench.training_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )
        self._send({**asdict(task), "folder": str(task.folder), "clone": str(task.clone or "")})

    def facts(self) -> dict[str, Any]:
        """What it says when it has built its contender."""
        return self._answer()

    def ask(self, what: str) -> dict[str, Any]:
        """Let it do `turn` or `finish` -> its answer."""
        self._send({"do": what})
        return self._answer()

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _send(self, content: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            print(json.dumps(content), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            self._process.wait()  # what it died of is said where the answer is missing

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        content = json.loads(line) if line else {"failure": self._last_words()}
        if "mistake" in content:
            raise UserError(content["mistake"])
        if "failure" in content:
            raise RuntimeError(f"{self.name} failed:\n{content['failure']}")
        return content

    def _last_words(self) -> str:
        code = self._process.wait()
        if code == -9:
            raise UserError(
                f"{self.name} was killed, as happens where memory runs out: choose smaller --shapes or --contexts"
            )
        self._errors.seek(0)
        return f"it ended with {code}\n{self._errors.read()[-4000:]}"


@contextmanager
def closing_all(workers: dict[str, Worker]) -> Iterator[None]:
    """End the workers that are in the dictionary then, also after an error or Ctrl-C."""
    try:
        yield
    finally:
        for worker in workers.values():
            worker.close()
