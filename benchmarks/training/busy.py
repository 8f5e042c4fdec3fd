"""Training next to a busy process: how much of its speed does each candidate retain?

OpenMP threads spin while they wait for one another. As soon as another process needs a core, they spin for a thread
that is not scheduled, and a step may take many times as long.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.markdown import line, spread
from common.rounds import interleaved
from training.peers import Setting, like_llamita, tuned_peers
from training.results import BusyRow, Load
from training.shapes import Shape, Task
from training.worker_process import Worker, closing_all, start, write_inputs

ONE_THREAD = "llamita, 1 thread"
GOAL = 0.5  # of one thread alone on an idle machine
SPIN = "print('spinning', flush=True)\nwhile True: pass"


def measure_busy(shape: Shape, setting: Setting) -> BusyRow:
    """One row: every candidate, idle and busy, in each round; every other round begins with busy."""
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as folder, closing_all(workers):
        facts = _start_all(setting.task("llamita", shape, Path(folder)), setting, workers)
        found = {name: Load(facts[name]["threads"], [], []) for name in workers}
        for number, name in interleaved(workers, setting.rounds):
            for load in ("busy", "idle") if number % 2 else ("idle", "busy"):
                seconds = _seconds(workers[name], load)
                if number:
                    getattr(found[name], load).append(seconds)
    return BusyRow(shape, found)


def _start_all(task: Task, setting: Setting, workers: dict[str, Worker]) -> dict[str, dict[str, Any]]:
    """Start llamita with several threads and with one, and the peers with several."""
    write_inputs(task)
    threads = task.threads or max(2, usable_cores())
    several = f"llamita, {threads} threads"
    facts = {several: start(workers, several, replace(task, threads=threads))}
    facts[ONE_THREAD] = start(workers, ONE_THREAD, replace(task, threads=1))
    for name, peer in tuned_peers(replace(task, compiled=setting.compiled), setting):
        facts[name] = start(workers, name, like_llamita(peer, facts[several]))
    return facts


def usable_cores() -> int:
    """The number of cores in this process's affinity mask."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _seconds(worker: Worker, load: str) -> float:
    if load == "idle":
        return worker.ask("measure")["seconds"]
    with busy_process():
        return worker.ask("measure")["seconds"]


@contextmanager
def busy_process() -> Iterator[subprocess.Popen[str]]:
    """A process that spins on one core for the duration of the block."""
    process = subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


COLUMNS = (
    "shape", "batch", "candidate", "idle, tokens/s", "beside a busy process, tokens/s", "kept (min-max)",
    "busy, of one llamita thread idle", "goal",
)  # fmt: skip


def row_lines(row: BusyRow) -> Iterator[str]:
    """One line per candidate."""
    alone = row.speed(ONE_THREAD, "idle")
    for name, candidate in row.candidates.items():
        label = name if name.startswith("llamita") else f"{name}, {candidate.threads} threads"
        speeds = [f"{row.speed(name, load):,.0f}" for load in ("idle", "busy")]
        goal = f"{GOAL:g}" if name.startswith("llamita") else ""
        share = f"{row.speed(name, 'busy') / alone:.2f}"
        yield line([row.shape.name, row.shape.batch, label, *speeds, spread(row.retained(name)), share, goal])


def notes(rows: list[BusyRow]) -> Iterator[str]:
    """The goal, and the rows that miss it."""
    missed = [
        f"{row.name}, {name}"
        for row in rows
        for name in row.candidates
        if name.startswith("llamita") and row.speed(name, "busy") < GOAL * row.speed(ONE_THREAD, "idle")
    ]
    yield f"Goal: next to a busy process, llamita reaches {GOAL:g} times the speed of one thread on an idle machine."
    yield f"Rows that miss: {'; '.join(missed) or 'none'}."
