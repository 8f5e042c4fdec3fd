"""`--minutes 5`: the longest run that ends within the budget, by a simulated clock; and its exact repetition."""

import json
import os
import socket
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from runs import (
    TINY,
    cache,
    command,
    ended,
    evaluation_rows,
    flags,
    last_checkpoint,
    outcome,
    refusal,
    start,
    text,
    training_rows,
)
from simulated_time import SimulatedTime, simulate_time

from llamita.config import RunConfig, TrainingConfig, replace
from llamita.errors import UserError
from llamita.optim import cosine_schedule
from llamita.planning.length import Costs, Length, Pauses, longest
from llamita.train import RunDirectory

fixtures = (cache, text)
BUDGET = 300.0  # seconds
SETTINGS = {name: value for name, value in TINY.items() if name not in ("max_steps", "eval_every", "save_every")}
MINUTES = {**SETTINGS, "minutes": BUDGET / 60, "sample_every": "auto", "sample_count": 1, "keep_last": 0}
SPEEDS = [
    pytest.param({}, id="as tried"),
    pytest.param({"trial": 1.0}, id="slower than tried"),
    pytest.param({"trial": 8.0}, id="faster than tried"),
    pytest.param({"step": lambda number: 4.0 if number < 30 else 10.0}, id="slower half-way"),
    pytest.param({"step": lambda number: 8.0 if number < 20 else 2.0}, id="faster half-way"),
    pytest.param({"step": lambda number: 2.4 + 3.2 * (number % 2)}, id="uneven"),
    pytest.param({"evaluation": 10.0, "sampling": 5.0}, id="long evaluations"),
]


class Killed(BaseException):
    """Ends a run without another instruction, as kill -9 does."""


def budget_words(data: Path, run: Path, **options: Any) -> list[str]:
    return ["train", *flags(data=data, output_dir=run, **{**MINUTES, **options})]


def run_of(data: Path, run: Path, time: SimulatedTime, **options: Any) -> float:
    """Train in simulated time -> the seconds that passed, evaluation and samples of step 0 included."""
    before = time.now
    assert command(*budget_words(data, run, **options)) == 0
    return time.now - before


def manifest(run: Path, step: int = -1) -> dict[str, Any]:
    paths = sorted(run.glob("step_*")) if step < 0 else [RunDirectory(run).checkpoint(step)]
    return json.loads((paths[-1] / "manifest.json").read_text())


def killed_at(patch: pytest.MonkeyPatch, words: list[Any], step: int) -> None:
    """Run a command that dies as it begins this step."""
    import llamita.train.loop as loop

    original = loop.next_batch

    def next_batch(run: Any, number: int) -> Any:
        if number == step:
            raise Killed
        return original(run, number)

    with patch.context() as once:
        once.setattr(loop, "next_batch", next_batch)
        with pytest.raises(Killed):
            command(*words)


# How long a run is


@pytest.mark.parametrize("speed", SPEEDS)
def test_a_run_ends_within_five_percent_of_its_budget(text, tmp_path, monkeypatch, speed, capsys):
    time = simulate_time(monkeypatch, **speed)
    passed = run_of(text, tmp_path / "run", time)
    before_step_one = speed.get("evaluation", 3.0) + speed.get("sampling", 2.0)
    assert 0.95 * BUDGET <= passed - before_step_one <= BUDGET
    said = capsys.readouterr().out
    assert f"{(passed - before_step_one) / 60:.2f} of 5 minutes from step 1 on" in said
    assert "planned for 5 minutes and corrected during the run" in said


def test_intervals_follow_from_the_first_plan(text, tmp_path, monkeypatch):
    simulate_time(monkeypatch, trial=2.5)
    assert command(*budget_words(text, tmp_path / "run")) == 0
    planned = int(0.985 * BUDGET / 2.5)
    steps = [row["step"] for row in evaluation_rows(tmp_path / "run")]
    tenth = -(-planned // 10)
    assert steps[:-1] == list(range(0, steps[-1], tenth))


def test_a_budget_that_is_too_short_for_anything_is_one_step(text, tmp_path, monkeypatch):
    simulate_time(monkeypatch)
    assert command(*budget_words(text, tmp_path / "run", minutes=0.01)) == 0
    assert [row["step"] for row in training_rows(tmp_path / "run")] == [1]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_never_jumps_and_reaches_the_end_of_its_schedule(text, tmp_path, monkeypatch, schedule):
    simulate_time(monkeypatch, step=lambda number: 4.0 if number < 25 else 8.0)
    assert command(*budget_words(text, tmp_path / "run", schedule=schedule, warmup_steps=10, sample_every=0)) == 0
    rates = [row["lr"] for row in training_rows(tmp_path / "run")]
    steepest = {"cosine": 3.1416 / 2, "linear": 1.0, "constant": 10.0}[schedule] / len(rates)
    falls = [before - after for before, after in pairwise(rates[9:])]
    assert min(falls) >= 0
    assert max(falls) <= 1e-2 * steepest * 3  # half the speed, so fewer steps for what is left of the schedule
    assert max(rates) == pytest.approx(1e-2)
    assert rates[-1] <= 1e-2 * (0.5 if schedule == "constant" else 0.1)


@pytest.mark.parametrize(
    "plans",
    [[(0, 100)], [(0, 100), (0, 80), (20, 90), (40, 41)], [(0, 50), (0, 50), (10, 200), (199, 200)]],
    ids=str,
)
def test_the_position_in_the_schedule_is_continuous_and_ends_with_the_run(plans):
    length = Length.of(plans)
    positions = [length.position(step) for step in range(length.max_steps + 1)]
    assert positions[0] == 0
    assert positions[-1] == pytest.approx(length.first)
    assert all(after > before for before, after in pairwise(positions))
    for since, until in zip(plans, [*plans[1:], (length.max_steps, 0)], strict=True):
        each = {
            round(b - a, 9) for a, b in zip(positions[since[0] : until[0]], positions[since[0] + 1 :], strict=False)
        }
        assert len(each) <= 1  # evenly between two corrections
    if len(plans) == 1:
        assert positions == list(range(101))


def test_a_fixed_number_of_steps_has_the_schedule_as_before(text, tmp_path):
    assert command("train", *flags(data=text, output_dir=tmp_path / "run", **TINY)) == 0
    expected = [cosine_schedule(step, 1e-2, 0.0, 2, 12) for step in range(12)]
    assert [row["lr"] for row in training_rows(tmp_path / "run")] == expected
    assert "lengths" not in RunDirectory(tmp_path / "run").facts()


def test_a_run_is_corrected_at_few_steps():
    length, corrections = Length.of([(0, 100_000)]), []
    for step in range(100_000):
        if length.needs_correction(step):
            corrections.append(step)
            length = length.corrected(step, 100_000)
    assert corrections[:2] == [0, 20_000]
    assert corrections[-1] >= 98_000
    assert len(corrections) <= 25


@pytest.mark.parametrize("step", [0, 1, 7, 10, 23])
@pytest.mark.parametrize("pauses", [Pauses(10, 10, 10), Pauses(7, 0, 3), Pauses(4, 9.5, 4)], ids=str)
def test_the_longest_run_is_the_one_found_by_going_through_it_step_by_step(step, pauses):
    costs = Costs(1.0, 4.0, 2.5, 0.5)

    def pause(number: int, end: int) -> float:
        def due(every: float) -> bool:
            return every > 0 and (number == end or number // every > (number - 1) // every)

        evaluating, sampling = due(pauses.evaluate), due(pauses.sample)
        return 4.5 * evaluating + 2.5 * sampling + 0.5 * (due(pauses.save) and not evaluating)

    def seconds(end: int) -> float:
        return (end - step) * costs.step + sum(pause(number, end) for number in range(max(1, step), end + 1))

    for left in (0.0, 5.0, 30.0, 77.0, 200.0):
        most = max([max(1, step)] + [end for end in range(max(1, step), 400) if seconds(end) <= left])
        if pauses.save == pauses.evaluate:
            assert longest(step, left, costs, pauses, 10**9) == most
        else:  # checkpoints between evaluations are counted roughly
            assert longest(step, left, costs, pauses, 10**9) == pytest.approx(most, abs=4)
    assert longest(step, 1e9, costs, pauses, 50) == 50


# Resuming and repeating


def test_a_killed_run_keeps_its_plans_up_to_the_checkpoint_and_counts_the_seconds_already_used(
    text, tmp_path, monkeypatch
):
    run, words = tmp_path / "run", budget_words(text, tmp_path / "run")
    time = simulate_time(monkeypatch, step=lambda number: 6.0)
    killed_at(monkeypatch, words, 30)
    saved = manifest(run)
    assert 15 <= saved["step"] < 30
    lost = time.now
    assert command(*words) == 0
    after = time.now - lost
    final = manifest(run)
    assert final["lengths"][: len(saved["lengths"])] == saved["lengths"]
    assert len(final["lengths"]) > len(saved["lengths"])
    assert all(step > saved["step"] for step, _ in final["lengths"][len(saved["lengths"]) :])
    # What follows a checkpoint (it itself, evaluation, samples) is not part of the seconds in it.
    assert 0.95 * BUDGET <= saved["seconds"] + after <= BUDGET
    assert RunDirectory(run).facts()["lengths"] == final["lengths"]


def test_a_finished_run_stays_finished(text, tmp_path, monkeypatch, capsys):
    simulate_time(monkeypatch)
    words = budget_words(text, tmp_path / "run")
    assert command(*words) == 0
    before = outcome(tmp_path / "run"), RunDirectory(tmp_path / "run").facts()
    capsys.readouterr()
    assert command(*words) == 0
    said = capsys.readouterr().out
    assert "this run is already finished" in said
    assert "--extend" not in said
    assert (outcome(tmp_path / "run"), RunDirectory(tmp_path / "run").facts()) == before


@pytest.mark.parametrize("disturbed", [False, True])
def test_the_config_of_a_run_repeats_it_bit_for_bit_on_a_machine_of_another_speed(
    text, tmp_path, monkeypatch, disturbed
):
    simulate_time(monkeypatch, step=lambda number: 4.0 if number < 20 else 6.0)
    run, again = tmp_path / "run", tmp_path / "again"
    assert command(*budget_words(text, run)) == 0
    words = ["train", "--config", run / "config.toml", "--output_dir", again]
    simulate_time(monkeypatch, trial=9.0, step=lambda number: 0.1)
    if disturbed:
        killed_at(monkeypatch, words, 25)
    assert command(*words) == 0
    assert outcome(again) == outcome(run)
    assert RunDirectory(again).facts()["lengths"] == RunDirectory(run).facts()["lengths"]


def test_the_config_of_a_run_with_another_setting_is_planned_for_itself(text, tmp_path, monkeypatch):
    simulate_time(monkeypatch)
    run, again = tmp_path / "run", tmp_path / "again"
    assert command(*budget_words(text, run)) == 0
    simulate_time(monkeypatch, trial=12.0, step=lambda number: 12.0)
    assert command("train", "--config", run / "config.toml", "--output_dir", again, "--seed", 1) == 0
    assert len(training_rows(again)) < len(training_rows(run)) / 2
    fixed = tmp_path / "fixed"
    assert command("train", "--config", run / "config.toml", "--output_dir", fixed, "--max_steps", 3) == 0
    assert len(training_rows(fixed)) == 3


def join(rank: int, port: int) -> None:
    """Be one of two processes, as torchrun starts them, whose clocks disagree."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in ranks.items()}, MASTER_ADDR="127.0.0.1")
    simulate_time(pytest.MonkeyPatch(), trial=4.0 + rank, step=lambda number: 4.0 + 3 * rank)


def test_two_processes_whose_clocks_disagree_follow_that_of_the_main_one(text, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    words, folders = budget_words(text, tmp_path / "run", minutes=1), [tmp_path / "0", tmp_path / "1"]
    for folder in folders:
        folder.mkdir()
    processes = [start(words, folder, join, rank, port) for rank, folder in enumerate(folders)]
    assert [ended(process) for process in processes] == [0, 0]
    simulate_time(monkeypatch)
    assert command(*budget_words(text, tmp_path / "alone", minutes=1)) == 0
    assert manifest(tmp_path / "run")["lengths"] == manifest(tmp_path / "alone")["lengths"]
    assert last_checkpoint(tmp_path / "run").keys() == last_checkpoint(tmp_path / "alone").keys()


# Settings


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"minutes": 0}, "minutes is 0.0, but must be above 0"),
        ({"minutes": -1}, "minutes is -1.0, but must be above 0"),
        ({"minutes": "nan"}, "minutes is nan, but must be above 0"),
        ({"minutes": "inf"}, "minutes is inf, but must be above 0 and finite"),
        ({"minutes": 5, "max_steps": 100}, "minutes 5 and max_steps 100 both set the length: give one"),
        ({"minutes": 5, "epochs": 2}, "minutes 5 and epochs 2.0 both set the length: give one"),
    ],
    ids=str,
)
def test_a_budget_that_makes_no_sense_is_one_clear_line_and_touches_nothing(text, tmp_path, capsys, options, expected):
    assert expected in refusal(capsys, "train", *flags(data=text, output_dir=tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()


def test_minutes_replace_what_else_sets_the_length_on_a_lower_level():
    config = replace(RunConfig.from_preset("tinystories-10m"), minutes=5)
    assert (config.training.minutes, config.training.max_steps) == (5.0, 0)
    assert replace(config, max_steps=7).training == TrainingConfig(max_steps=7, batch_size=32)
    assert replace(config, minutes="off").training.minutes == "off"
    assert replace(RunConfig(), minutes=5).identity()["minutes"] == 5.0
    with pytest.raises(UserError, match="both set the length"):
        replace(RunConfig(), minutes=5, epochs=1)
