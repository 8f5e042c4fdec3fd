"""Runs of a sweep on a cluster: Slurm through submitit, or Ray. Both are extras, imported when they are used."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace as with_fields
from pathlib import Path
from typing import Any

from llamita.config import replace
from llamita.errors import UserError
from llamita.experiments.job import Job, compute
from llamita.experiments.result import Outcome
from llamita.experiments.runner import POLL_SECONDS, Runner, show_progress
from llamita.experiments.table import SweepTable

RUNNERS = ("local", "slurm", "ray")
MINUTES = 24 * 60
"""The time limit of a Slurm job; SBATCH_TIMELIMIT overrides it, and SBATCH_PARTITION and so on choose the rest."""
CORES = 4
"""Per run, unless `threads` says how many."""


def runner_named(name: str, folder: Path) -> Runner | None:
    """The runner for `--runner`, with its own files in `folder`; None for "local", which `choose_runner` decides.

    Raises `UserError` for other names, and if the package that it needs is not installed.
    """
    if name not in RUNNERS:
        raise UserError(f"--runner is {name!r}, but must be one of {', '.join(RUNNERS)}")
    if name == "local":
        return None
    return Slurm(folder) if name == "slurm" else Ray()


class Slurm:
    """One Slurm job per run, submitted by submitit. The runs need a file system that all nodes share."""

    def __init__(self, folder: Path, cluster: str = "slurm"):
        """`folder`: for submitit's scripts and logs. `cluster`: "local" runs them as processes of this machine."""
        self._submitit = _imported("submitit", "slurm")
        self._folder, self._cluster = folder, cluster

    def run(self, jobs: Sequence[Job], table: SweepTable) -> None:
        """Submit all jobs, and wait for them. Ctrl-C cancels them; what they have saved is resumed."""
        try:
            executor = self._submitit.AutoExecutor(folder=str(self._folder.resolve()), cluster=self._cluster)
        except RuntimeError as error:
            raise UserError(f"--runner slurm: this machine cannot submit jobs ({error})") from None
        resources = _resources(jobs[0], "cpus_per_task", "gpus_per_node")
        executor.update_parameters(name="llamita", timeout_min=MINUTES, **resources)
        submitted = {job.name: executor.submit(compute, absolute(job)) for job in jobs}
        try:
            watch(jobs, lambda job: submitted[job.name].done(), table)
        finally:
            for handle in submitted.values():
                if not handle.done():
                    handle.cancel()


class Ray:
    """One Ray task per run: on the cluster of $RAY_ADDRESS, or else on this machine."""

    def __init__(self) -> None:
        self._ray = _imported("ray", "ray")

    def run(self, jobs: Sequence[Job], table: SweepTable) -> None:
        """Submit all jobs, and wait for them. Ctrl-C cancels them; what they have saved is resumed."""
        ray = self._ray
        ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
        task = ray.remote(max_retries=0, **_resources(jobs[0], "num_cpus", "num_gpus"))(compute)
        submitted = {job.name: task.remote(absolute(job)) for job in jobs}
        try:
            watch(jobs, lambda job: bool(ray.wait([submitted[job.name]], timeout=0)[0]), table)
        finally:
            for reference in submitted.values():
                ray.cancel(reference)
            ray.shutdown()


def watch(jobs: Sequence[Job], is_done: Callable[[Job], bool], table: SweepTable) -> None:
    """Show the progress of jobs that other processes compute, until all are done.

    One that ended without recording how, as if its node was lost, has failed.
    """
    waiting, running = list(jobs), list[Job]()
    while waiting or running:
        for job in [job for job in waiting if job.path.exists() or is_done(job)]:
            table.start(job.name)
            waiting.remove(job)
            running.append(job)
        for job in list(running):
            show_progress(job, table)
            if is_done(job):
                if Outcome.read(job.path).status == "planned":
                    Outcome("failed", "its job ended without a result; see the logs of the cluster").write(job.path)
                table.end(job.name, Outcome.read(job.path), job.path)
                running.remove(job)
        time.sleep(POLL_SECONDS)


def absolute(job: Job) -> Job:
    """The job with an absolute run directory: a worker may start in another folder."""
    return with_fields(job, config=replace(job.config, output_dir=str(job.path.resolve())))


def _resources(job: Job, cores: str, gpus: str) -> dict[str, int]:
    """What a run needs, under the names of a cluster: cores, and a GPU unless it is to run on the CPU."""
    run = job.config.run
    return {cores: run.threads or CORES, gpus: 0 if run.device == "cpu" else 1}


def _imported(package: str, extra: str) -> Any:
    """An optional package. Raises `UserError` if it is not installed."""
    try:
        return __import__(package)
    except ImportError:
        raise UserError(f'--runner {extra} needs {package}: pip install "llamita[{extra}]"') from None
