"""Sweeps: a directory of runs that resumes without repeating any, and continues after one that fails."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import cache, disturb, forks, last_checkpoint, rows, text, tiny_config, tree

import llamita.experiments.job
import llamita.train
from llamita.config import replace
from llamita.errors import DivergenceError, UserError
from llamita.experiments import Plan, PlannedRun, Sweep
from llamita.experiments.clusters import runner_named, watch
from llamita.experiments.job import Job
from llamita.experiments.result import Outcome
from llamita.experiments.runner import Processes
from llamita.experiments.table import SweepTable
from llamita.file_lock import file_lock
from llamita.model import Llama

fixtures = (cache, text)
VARIANTS = {"base": {}, "no-norm": {"norm": "none"}}


def plan(text: Path, seeds: int = 1, variants: dict = VARIANTS, **options) -> Plan:
    runs = [PlannedRun.of(group, seed, settings) for seed in range(seeds) for group, settings in variants.items()]
    return Plan("ablation", tiny_config(text, **options), tuple(runs))


def test_every_row_is_a_complete_run_that_equals_the_same_run_alone(tmp_path, text):
    results = Sweep.open(tmp_path / "sweep", plan(text)).run()
    assert [(result.run.name, result.status) for result in results] == [
        ("base-seed0", "finished"),
        ("no-norm-seed0", "finished"),
    ]
    alone = llamita.train.train(replace(tiny_config(text, norm="none"), output_dir=str(tmp_path / "alone")))
    assert last_checkpoint(alone) == last_checkpoint(results[1].path)
    assert rows(alone) == rows(results[1].path)


def test_results_hold_losses_tokens_flops_and_the_seconds_of_training_steps(tmp_path, text):
    result = Sweep.open(tmp_path / "sweep", plan(text)).run()[0]
    log = [json.loads(line) for line in (result.path / "metrics.jsonl").read_text().splitlines()]
    assert result.step == 12
    assert result.val_loss == [row["val_loss"] for row in log if row["val_loss"]][-1]
    assert result.tokens == log[-1]["tokens"] == 12 * 4 * 16
    model = Llama(result.model)
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert result.parameters == weights
    assert result.flops == (6 * weights + 6 * 1 * 16 * 16) * result.tokens
    steps = [row for row in log if row["tokens_per_second"]]
    assert result.seconds == pytest.approx(sum(64 / row["tokens_per_second"] for row in steps))
    assert result.validation()[0].tolist() == [0, 4, 8, 12]
    assert np.all(np.diff(result.clock()[1]) > 0)


def test_a_sweep_that_is_opened_again_repeats_nothing_and_changes_no_file(tmp_path, text):
    Sweep.open(tmp_path / "sweep", plan(text)).run()
    before = tree(tmp_path / "sweep")
    Sweep.open(tmp_path / "sweep", plan(text)).run()
    assert tree(tmp_path / "sweep") == before
    assert Sweep.load(tmp_path / "sweep").plan == Sweep.open(tmp_path / "sweep", plan(text)).plan


def run_sweep(folder: Path, text: Path, cache: Path) -> None:
    os.environ["LLAMITA_CACHE"] = str(cache)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    Sweep.open(folder, plan(text)).run()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_killed_sweep_resumes_where_it_was(tmp_path, text, cache):
    whole = Sweep.open(tmp_path / "whole", plan(text)).run()
    folder = tmp_path / "killed"
    process = forks.Process(target=run_sweep, args=(folder, text, cache))
    process.start()
    assert disturb(process, signal.SIGKILL, (folder / "no-norm-seed0" / "step_00000004").exists) == -signal.SIGKILL
    first = (folder / "base-seed0" / "metrics.jsonl").stat().st_mtime_ns
    resumed = Sweep.open(folder, plan(text)).run()
    assert (folder / "base-seed0" / "metrics.jsonl").stat().st_mtime_ns == first
    for one, other in zip(whole, resumed, strict=True):
        assert last_checkpoint(one.path) == last_checkpoint(other.path)
        assert rows(one.path) == rows(other.path)


def test_more_seeds_extend_a_sweep(tmp_path, text):
    Sweep.open(tmp_path / "sweep", plan(text, variants={"base": {}})).run()
    results = Sweep.open(tmp_path / "sweep", plan(text, seeds=2, variants={"base": {}})).run()
    assert [result.run.name for result in results] == ["base-seed0", "base-seed1"]
    assert len(Sweep.load(tmp_path / "sweep").plan.runs) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"learning_rate": 1e-3}, r"learning_rate 0\.01 -> 0\.001"),
        ({"variants": {"base": {}, "nope": {"position": "none"}}}, r"runs of base, no-norm -> base, nope"),
        ({"variants": {"base": {}, "no-norm": {"norm": "layer"}}}, r"no-norm-seed0 is missing or has other settings"),
    ],
)
def test_a_sweep_with_other_settings_is_refused_in_one_line_and_changes_no_file(tmp_path, text, change, reason):
    Sweep.open(tmp_path / "sweep", plan(text)).run(names=["base-seed0"])
    before = tree(tmp_path / "sweep")
    with pytest.raises(UserError, match=rf"holds a sweep with other settings: {reason}; choose another"):
        Sweep.open(tmp_path / "sweep", plan(text, **change))
    assert tree(tmp_path / "sweep") == before


def test_execution_settings_may_change_when_a_sweep_is_resumed(tmp_path, text):
    Sweep.open(tmp_path / "sweep", plan(text)).run(names=["base-seed0"])
    results = Sweep.open(tmp_path / "sweep", plan(text, log_every=2)).run()
    assert [result.status for result in results] == ["finished", "finished"]


def test_a_run_that_diverges_or_fails_is_recorded_and_the_sweep_continues(tmp_path, text, monkeypatch):
    train = llamita.train.train

    def failing(config, display):
        if config.training.seed == 0:
            raise DivergenceError("the loss is nan at step 3: training has diverged")
        if config.training.seed == 1:
            raise MemoryError("no memory")
        return train(config, display)

    monkeypatch.setattr(llamita.experiments.job, "train", failing)
    sweep = Sweep.open(tmp_path / "sweep", plan(text, seeds=3, variants={"base": {}}))
    results = sweep.run()
    assert [result.status for result in results] == ["diverged", "failed", "finished"]
    assert results[1].outcome.error == "MemoryError: no memory"
    assert "Traceback" in results[1].outcome.traceback
    assert [run.seed for run in sweep.remaining()] == [1]  # a diverged run would diverge again


def test_training_that_diverges_raises_the_error_that_a_sweep_looks_for(text):
    with pytest.raises(DivergenceError):
        llamita.train.train(tiny_config(text, learning_rate=1e12, grad_clip=0.0, warmup_steps=0))


def test_a_failed_run_is_tried_again(tmp_path, text, monkeypatch):
    sweep = Sweep.open(tmp_path / "sweep", plan(text, variants={"base": {}}))
    with monkeypatch.context() as patch:
        patch.setattr(llamita.experiments.job, "train", lambda *_: 1 / 0)
        assert sweep.run()[0].status == "failed"
    assert sweep.run()[0].status == "finished"


def test_changed_code_is_not_mixed_into_a_sweep(tmp_path, text, monkeypatch):
    sweep = Sweep.open(tmp_path / "sweep", plan(text))
    sweep.run(names=["base-seed0"])
    monkeypatch.setattr("llamita.experiments.sweep.running_code", lambda: {**sweep.code, "model/llama.py": "edited"})
    with pytest.raises(UserError, match=r"the code has changed since this sweep began \(model/llama\.py\)"):
        Sweep.open(tmp_path / "sweep", plan(text)).run()


@pytest.mark.parametrize("variants", [{}, {"base": {"hidden_sise": 8}}, {"base": {"num_heads": 3}}])
def test_a_plan_without_runs_or_with_settings_that_do_not_fit_is_refused(text, variants):
    with pytest.raises(UserError) as refused:
        plan(text, variants=variants)
    assert "\n" not in str(refused.value)


def test_a_folder_with_other_files_is_refused(tmp_path, text):
    with pytest.raises(UserError, match="is not empty, and holds no sweep"):
        Sweep.open(tmp_path, plan(text))
    with pytest.raises(UserError, match="not a sweep"):
        Sweep.load(tmp_path)


def test_two_processes_do_not_compute_the_same_sweep(tmp_path, text):
    sweep = Sweep.open(tmp_path / "sweep", plan(text))
    (tmp_path / "sweep").mkdir()
    with file_lock(tmp_path / "sweep" / ".lock"), pytest.raises(UserError, match="another process computes this sweep"):
        sweep.run()


def test_in_a_pipe_each_finished_run_is_one_line(tmp_path, text, capsys):
    Sweep.open(tmp_path / "sweep", plan(text)).run()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"base-seed0  finished  loss \d\.\d{4}  0:\d\d  1 of 2 runs, ETA 0:\d\d", lines[0])
    assert lines[1].endswith("2 of 2 runs")


@pytest.mark.slow
def test_one_process_per_device_computes_the_same_numbers(tmp_path, text):
    """Two CPU "devices" in place of two GPUs."""
    one = Sweep.open(tmp_path / "one", plan(text)).run()
    two = Sweep.open(tmp_path / "two", plan(text)).run(Processes(["cpu", "cpu"]))
    assert [result.status for result in two] == ["finished", "finished"]
    for here, there in zip(one, two, strict=True):
        assert last_checkpoint(here.path) == last_checkpoint(there.path)


@pytest.mark.slow
def test_slurm_jobs_compute_the_same_numbers(tmp_path, text):
    """Submitted by submitit, to its local executor."""
    pytest.importorskip("submitit", reason="submitit is an extra")
    from llamita.experiments.clusters import Slurm

    one = Sweep.open(tmp_path / "one", plan(text)).run()
    two = Sweep.open(tmp_path / "two", plan(text)).run(Slurm(tmp_path / "jobs", cluster="local"))
    assert [result.status for result in two] == ["finished", "finished"]
    assert [last_checkpoint(result.path) for result in one] == [last_checkpoint(result.path) for result in two]


@pytest.mark.slow
def test_ray_tasks_compute_the_same_numbers(tmp_path, text):
    """On a Ray of this machine."""
    pytest.importorskip("ray", reason="Ray is an extra")
    from llamita.experiments.clusters import Ray

    one = Sweep.open(tmp_path / "one", plan(text)).run()
    two = Sweep.open(tmp_path / "two", plan(text)).run(Ray())
    assert [result.status for result in two] == ["finished", "finished"]
    assert [last_checkpoint(result.path) for result in one] == [last_checkpoint(result.path) for result in two]


def test_a_job_that_ends_without_a_result_has_failed(tmp_path, text):
    jobs = [Job(run.name, Sweep.open(tmp_path / "s", plan(text)).config(run)) for run in plan(text).runs]
    Outcome("finished").write(jobs[0].path)
    with SweepTable("jobs", [job.name for job in jobs]) as table:
        watch(jobs, lambda job: True, table)
    assert [Outcome.read(job.path).status for job in jobs] == ["finished", "failed"]


def test_an_unknown_runner_and_one_that_is_not_installed_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--runner is 'slrum', but must be one of local, slurm, ray"):
        runner_named("slrum", tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r'--runner slurm needs submitit: pip install "llamita\[slurm\]"'):
        runner_named("slurm", tmp_path)


def test_an_interrupted_sweep_says_that_it_resumes(tmp_path, text, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt("the step is finished and saved")

    monkeypatch.setattr(llamita.experiments.job, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Sweep.open(tmp_path / "sweep", plan(text)).run()
    assert capsys.readouterr().out == "stopped, and saved: the same command resumes the sweep\n"
    monkeypatch.undo()
    assert [result.status for result in Sweep.load(tmp_path / "sweep").results()] == ["planned", "planned"]
