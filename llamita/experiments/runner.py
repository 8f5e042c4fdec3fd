"""Where the runs of a sweep are computed: one after the other in this process, or one process per GPU."""

import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import torch

from llamita.config import RunConfig
from llamita.experiments.job import Job, compute
from llamita.experiments.result import Outcome
from llamita.experiments.table import SweepTable, TableDisplay
from llamita.train import RunDirectory

POLL_SECONDS = 0.5
STOP_SECONDS = 60.0  # for a run to finish its step and to save


class Runner(Protocol):
    """Computes jobs, and shows them in a table."""

    def run(self, jobs: Sequence[Job], table: SweepTable) -> None:
        """Compute all jobs. Each records its own outcome; Ctrl-C and signals end the sweep, with every run saved."""
        ...


class InProcess:
    """One run after the other, in this process."""

    def run(self, jobs: Sequence[Job], table: SweepTable) -> None:
        """Compute all jobs in their order."""
        for job in jobs:
            table.start(job.name)
            table.end(job.name, compute(job, TableDisplay(table, job.name)), job.path)


class Processes:
    """One process per device, each with one run at a time."""

    def __init__(self, devices: Sequence[str]):
        """`devices`: such as "cuda:0", "cuda:1"."""
        self._devices = tuple(devices)

    def run(self, jobs: Sequence[Job], table: SweepTable) -> None:
        """Compute all jobs; the next one starts where a device is free."""
        waiting = deque(jobs)
        running: dict[str, tuple[Job, subprocess.Popen[bytes]]] = {}
        try:
            while waiting or running:
                for device in [device for device in self._devices if device not in running and waiting]:
                    job = waiting.popleft()
                    table.start(job.name)
                    running[device] = job, _start(job, device)
                time.sleep(POLL_SECONDS)
                for device, (job, process) in list(running.items()):
                    show_progress(job, table)
                    if process.poll() is not None:
                        _end(job, process, table)
                        del running[device]
        finally:
            _stop([process for _, process in running.values()])


def choose_runner(config: RunConfig) -> Runner:
    """One process per GPU where there are several and the configuration leaves the device open; else this process."""
    count = torch.cuda.device_count() if config.run.device in ("auto", "cuda") and config.run.world_size < 2 else 0
    return Processes([f"cuda:{index}" for index in range(count)]) if count > 1 else InProcess()


def show_progress(job: Job, table: SweepTable) -> None:
    """Update the table from the log of a run that another process computes."""
    directory = RunDirectory(job.path)
    row = directory.metrics.last_row() if directory.exists() else None
    if row:
        loss = row["train_loss"] if row.get("train_loss") is not None else row.get("val_loss")
        table.update(job.name, row["step"], directory.max_steps(), f"{loss:.4f}" if loss else "")


def _start(job: Job, device: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "llamita.experiments.worker"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stdin is not None
    task = {"name": job.name, "config": job.config.tables(), "code": job.code, "device": device}
    process.stdin.write(json.dumps(task).encode())
    process.stdin.close()
    return process


def _end(job: Job, process: "subprocess.Popen[bytes]", table: SweepTable) -> None:
    """Show how a run ended; one whose process was killed has failed, if it could not say so itself."""
    if process.returncode:
        Outcome("failed", f"its process ended with exit code {process.returncode}").write(job.path)
    table.end(job.name, Outcome.read(job.path), job.path)


def _stop(processes: "list[subprocess.Popen[bytes]]") -> None:
    """Let runs finish their step and save, when the sweep is interrupted."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
