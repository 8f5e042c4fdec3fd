"""A worker process: trains one candidate, measures on request, and finally reports memory and a profile.

Task, requests and answers are JSON lines. Each candidate has a separate process, since one that has been compiled, or
has needed much memory, would affect the measurements of the next.
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

from common.command import is_mistake
from training.shapes import Shape, Task

WARM_UP = 2  # steps, both on the first batch: equal second losses mean equal updates
MAX_STEPS = 100  # of one measurement
PARTS = ("data", "forward", "backward", "clipping", "optimizer", "zeroing", "logging")
PROFILED = 2  # steps


class TrainingSteps:
    """Trains an implementation, and times the parts of each step."""

    def __init__(self, task: Task):
        self._it, self._min_seconds = _implementation(task), task.min_seconds
        self._on_gpu = self._it.facts["device"].startswith("cuda")
        self._parts: list[dict[str, float]] = []
        self._losses = [self._step(0)[1] for _ in range(WARM_UP)]
        self._next, self._count = 1, 0

    def ready(self) -> dict[str, Any]:
        """The facts known before the first measurement."""
        count = sum(parameter.numel() for parameter in self._it.model.parameters())
        has_compiled = "llvmlite" in sys.modules  # for llamita's kernels: the compiler stays in memory, 100 MiB
        return {"losses": self._losses, "parameters": count, "has_compiled": has_compiled, **self._it.facts}

    def measure(self) -> dict[str, Any]:
        """Seconds per step: the median on a CPU; the mean on a GPU, without synchronizing after each step."""
        if not self._count:
            self._count = min(MAX_STEPS, max(1, round(self._min_seconds / self._one())))
            self._parts.clear()
        if self._on_gpu:
            return {"seconds": self._seconds_asynchronous()}
        return {"seconds": statistics.median(self._one() for _ in range(self._count))}

    def finish(self) -> dict[str, Any]:
        """Peak memory so far, and the breakdown of a step's time."""
        memory = self._peak_memory()  # first: profiling needs memory, too
        parts = {name: statistics.median(step[name] for step in self._parts) for name in PARTS}
        return {"memory": memory, "parts": parts, "profile": self._profile()}

    def _one(self) -> float:
        seconds, _ = self._step(self._next)
        self._next += 1
        return seconds

    def _step(self, number: int) -> tuple[float, float]:
        """One training step -> (seconds, loss)."""
        it, marks = self._it, [time.perf_counter()]
        ids, targets = it.batch(number)
        marks.append(time.perf_counter())
        loss = it.loss(ids, targets)
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        norm = it.clip()
        marks.append(time.perf_counter())
        it.optimizer.step()
        marks.append(time.perf_counter())
        it.optimizer.zero_grad(set_to_none=True)
        marks.append(time.perf_counter())
        json.dumps({"train_loss": loss.item(), "grad_norm": norm.item()})
        marks.append(time.perf_counter())
        self._parts.append(dict(zip(PARTS, (after - before for before, after in pairwise(marks)), strict=True)))
        return marks[-1] - marks[0], loss.item()

    def _seconds_asynchronous(self) -> float:
        """Steps that do not read the loss, so that the CPU runs ahead of the GPU, as in training."""
        from training.matmul import synchronize

        synchronize(self._it.facts["device"])
        started = time.perf_counter()
        for number in range(self._next, self._next + self._count):
            self._it.loss(*self._it.batch(number)).backward()
            self._it.clip()
            self._it.optimizer.step()
            self._it.optimizer.zero_grad(set_to_none=True)
        self._next += self._count
        synchronize(self._it.facts["device"])
        return (time.perf_counter() - started) / self._count

    def _peak_memory(self) -> int:
        if self._on_gpu:
            import torch

            return torch.cuda.max_memory_allocated(self._it.facts["device"])
        return peak_memory()

    def _profile(self) -> dict[str, float]:
        """The share of a step's CPU time in each kind of operation, classified by `kind_of`."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU]) as found:
            seconds = sum(self._one() for _ in range(PROFILED))
        shares = dict.fromkeys(OPERATIONS, 0.0)
        for event in found.key_averages():
            if kind := kind_of(event.key):
                shares[kind] += event.self_cpu_time_total / 1e6 / seconds
        return {**shares, "rest": 1 - sum(shares.values())}


OPERATIONS = {
    "matmul": ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "mkldnn", "onednn"),
    "attention": ("attention",),
    "head": ("crossentropy", "cross_entropy", "log_softmax", "logsoftmax", "nll_loss", "nllloss"),
    "optimizer": ("optimizer", "adamw"),
}
"""Kinds of operations, by substrings of their names. Time is self time, without the operations called: the
matrix products of attention and of the head count as matmul."""


def kind_of(operation: str) -> str | None:
    """The kind of the operation with this name."""
    name = operation.lower()
    return next((kind for kind, marks in OPERATIONS.items() if any(mark in name for mark in marks)), None)


def peak_memory() -> int:
    """Peak resident bytes of this process."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would include the parent process's peak
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        raise RuntimeError("peak memory is not measured on Windows")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def build(task: Task) -> Any:
    """An object that answers `ready`, `measure` and `finish` for this task. Imports only what it needs."""
    if task.kind == "inputs":
        from training.inputs import Inputs

        return Inputs(task)
    if task.kind == "matmul":
        from training.matmul import MatmulPeak

        return MatmulPeak(task)
    return TrainingSteps(task)


def _implementation(task: Task) -> Any:
    if task.kind == "llamita":
        from training.llamita_model import llamita_model

        return llamita_model(task)
    from training.peer_models import PEERS

    return PEERS[task.kind](task)


def serve(requests: TextIO, answers: TextIO) -> None:
    """Build the task in the first line, then answer each request that follows."""

    def answer(work: Callable[[], dict[str, Any]]) -> None:
        try:
            content = work()
        except Exception as error:
            content = {"mistake": str(error)} if is_mistake(error) else {"failure": traceback.format_exc()}
        print(json.dumps(content), file=answers, flush=True)

    worker: list[Any] = []

    def begin() -> dict[str, Any]:
        worker.append(build(_task(json.loads(requests.readline()))))
        return worker[0].ready()

    answer(begin)
    for line in requests:
        answer(getattr(worker[0], json.loads(line)["do"]))


def _task(content: dict[str, Any]) -> Task:
    assert set(content) == {field.name for field in fields(Task)}
    paths = {name: Path(content[name]) if content[name] else None for name in ("folder", "clone", "source", "cache")}
    return Task(**{**content, **paths, "shape": Shape(**content["shape"])})


def main() -> None:
    """Answer on the original stdout; redirect prints of the models to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
