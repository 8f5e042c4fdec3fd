"""A process that trains one contender, a turn whenever it is asked, and then says what it took.

Its task and the requests come as JSON lines, and so go the answers. Each contender has a process of its own, for one
that has been compiled, or needs much memory, changes what is measured of the next.
"""

import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

from llamita.bench.shapes import Shape, Task
from llamita.errors import UserError

WARM_UP = 2  # steps, both on the first batch: that the second loss is the same says that the update was
MOST_STEPS = 100  # of a turn
PARTS = ("data", "forward", "backward", "clipping", "optimizer", "zeroing", "logging")
PROFILED = 2  # steps


class TrainingSteps:
    """Trains a contender, with a clock between the parts of a step."""

    def __init__(self, task: Task):
        from llamita.bench.contenders import KINDS

        self._contender, self._turn = KINDS[task.kind](task), task.turn
        self._done: list[dict[str, float]] = []
        self._losses: list[float] = []
        for _ in range(WARM_UP):
            self._step(0)
        self._at_once = 0

    def ready(self) -> dict[str, Any]:
        """What is known before the first turn."""
        count = sum(parameter.numel() for parameter in self._contender.model.parameters())
        has_compiled = "llamita.jit.compiler" in sys.modules
        return {"losses": self._losses, "parameters": count, "has_compiled": has_compiled, **self._contender.facts}

    def turn(self) -> dict[str, Any]:
        """The seconds of a step: the middle one of a turn."""
        if not self._at_once:
            self._at_once = min(MOST_STEPS, max(1, round(self._turn / self._step(1))))
            self._done.clear()
        steps = [self._step(len(self._done) + 1) for _ in range(self._at_once)]
        return {"seconds": statistics.median(steps)}

    def finish(self) -> dict[str, Any]:
        """The most memory of all that was done so far, and how a step's time is divided."""
        memory = peak_memory()  # first: to look where time goes takes memory, too
        parts = {name: statistics.median(step[name] for step in self._done) for name in PARTS}
        return {"memory": memory, "parts": parts, "shares": self._shares()}

    def _step(self, number: int) -> float:
        contender, marks = self._contender, [time.perf_counter()]
        ids, targets = contender.batch(number)
        marks.append(time.perf_counter())
        loss = contender.loss(ids, targets)
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        norm = contender.clip()
        marks.append(time.perf_counter())
        contender.optimizer.step()
        marks.append(time.perf_counter())
        contender.optimizer.zero_grad(set_to_none=True)
        marks.append(time.perf_counter())
        json.dumps({"train_loss": loss.item(), "grad_norm": norm.item()})
        marks.append(time.perf_counter())
        self._done.append(dict(zip(PARTS, (after - before for before, after in pairwise(marks)), strict=True)))
        self._losses.append(loss.item())
        return marks[-1] - marks[0]

    def _shares(self) -> dict[str, float]:
        """What shares of a step's time the profiler finds in which operations, as `what_it_is` names them."""
        from torch.profiler import ProfilerActivity, profile

        number = len(self._done) + 1
        with profile(activities=[ProfilerActivity.CPU]) as found:
            seconds = sum(self._step(number + more) for more in range(PROFILED))
        shares = dict.fromkeys(OPERATIONS, 0.0)
        for event in found.key_averages():
            if kind := what_it_is(event.key):
                shares[kind] += event.self_cpu_time_total / 1e6 / seconds
        return {**shares, "rest": 1 - sum(shares.values())}


OPERATIONS = {
    "products": ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "mkldnn", "onednn"),
    "attention": ("attention",),
    "head": ("crossentropy", "cross_entropy", "log_softmax", "logsoftmax", "nll_loss", "nllloss"),
    "optimizer": ("optimizer", "adamw"),
}
"""Kinds of operations, and what is in the names of each. Time is that of the operation itself, without those it calls:
so the matrix products of attention and of the head count as products."""


def what_it_is(operation: str) -> str | None:
    """The kind of an operation of this name."""
    name = operation.lower()
    return next((kind for kind, marks in OPERATIONS.items() if any(mark in name for mark in marks)), None)


def peak_memory() -> int:
    """Bytes that were resident at most in this process."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the process that started this one had, too
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def serve(requests: TextIO, answers: TextIO) -> None:
    """Build what the first line asks for, and do what the others name until there are no more."""

    def answer(work: Callable[[], dict[str, Any]]) -> None:
        try:
            content = work()
        except UserError as error:
            content = {"mistake": str(error)}
        except Exception:
            content = {"failure": traceback.format_exc()}
        print(json.dumps(content), file=answers, flush=True)

    worker: list[Any] = []

    def begin() -> dict[str, Any]:
        worker.append(build(_task(json.loads(requests.readline()))))
        return worker[0].ready()

    answer(begin)
    for line in requests:
        answer(getattr(worker[0], json.loads(line)["do"]))


def build(task: Task) -> Any:
    """What answers to `ready`, `turn` and `finish` for this task."""
    from llamita.bench.products import MatrixProducts

    return MatrixProducts(task) if task.kind == "products" else TrainingSteps(task)


def _task(content: dict[str, Any]) -> Task:
    assert set(content) == {field.name for field in fields(Task)}
    paths = {name: Path(content[name]) if content[name] else None for name in ("folder", "clone")}
    return Task(**{**content, **paths, "shape": Shape(**content["shape"])})


def main() -> None:
    """Answer on what was standard output; what others print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
