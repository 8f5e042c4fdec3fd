"""How often a run evaluates, samples and saves: about ten times whatever its length, or as often as the user says."""

import math

import pytest
from runs import cache, command, flags, rows, text, tiny_config, train_words, training_rows, write_text

from llamita.planning.intervals import SAVE_SECONDS, Intervals, choose_intervals
from llamita.train import RunDirectory

fixtures = (cache, text)
AUTO = {"eval_every": "auto", "sample_every": "auto", "save_every": "auto"}


def chosen(**options) -> Intervals:
    config = tiny_config("unread.txt", **{**AUTO, **options})
    return choose_intervals(config.run, config.training.max_steps)


@pytest.mark.parametrize(
    ("max_steps", "tenth"), [(1, 1), (5, 1), (10, 1), (11, 2), (164, 17), (2000, 200), (10**9, 10**8)]
)
def test_by_default_a_run_evaluates_samples_and_saves_after_each_tenth_and_saves_after_fifteen_minutes(
    max_steps, tenth
):
    assert chosen(max_steps=max_steps) == Intervals(1, tenth, tenth, tenth, SAVE_SECONDS)
    assert SAVE_SECONDS == 15 * 60


@pytest.mark.parametrize("every", [1, 7, 500, "epoch"])
@pytest.mark.parametrize("name", AUTO)
def test_an_interval_that_the_user_sets_wins_and_leaves_the_others(every, name):
    expected = chosen(max_steps=100)
    found = chosen(max_steps=100, **{name: every})
    field = {"eval_every": "evaluate", "sample_every": "sample", "save_every": "save"}[name]
    assert getattr(found, field) == every
    assert found.save_seconds == (math.inf if name == "save_every" else SAVE_SECONDS)
    others = {"evaluate", "sample", "save"} - {field}
    assert all(getattr(found, other) == getattr(expected, other) == 10 for other in others)


def test_no_samples_are_no_samples():
    assert chosen(sample_every=0).sample == 0


def test_the_plan_says_the_intervals(text, tmp_path, capsys):
    assert command(*train_words(text, tmp_path / "auto", max_steps=25, **AUTO)) == 0
    said = capsys.readouterr().out
    assert (
        "intervals   log every step, evaluate every 3 steps, sample every 3 steps, save every 3 steps or 15 min" in said
    )
    assert command(*train_words(text, tmp_path / "set", save_every="epoch")) == 0
    said = capsys.readouterr().out
    assert "intervals   log every step, evaluate every 4 steps, no samples, save every epoch\n" in said


def test_a_run_of_any_length_is_evaluated_and_sampled_about_ten_times(text, tmp_path):
    assert command(*train_words(text, tmp_path / "run", max_steps=25, **{**AUTO, "keep_last": 0})) == 0
    due = [*range(0, 25, 3), 25]
    assert [row["step"] for row in rows(tmp_path / "run") if row["val_loss"] is not None] == due
    assert [row["step"] for row in RunDirectory(tmp_path / "run").samples.rows()] == due
    assert RunDirectory(tmp_path / "run").steps() == due[1:]


def test_the_written_config_keeps_auto_so_that_a_longer_run_like_it_has_longer_intervals(text, tmp_path):
    assert command(*train_words(text, tmp_path / "run", **AUTO)) == 0
    words = flags(max_steps=40, output_dir=tmp_path / "longer", save_every=40)
    assert command("train", "--config", tmp_path / "run" / "config.toml", *words) == 0
    scored = [row["step"] for row in rows(tmp_path / "longer") if row["val_loss"] is not None]
    assert scored == list(range(0, 41, 4))
    assert training_rows(tmp_path / "longer")[-1]["step"] == 40


def test_with_default_intervals_overfitting_is_hinted_at_in_a_short_run(tmp_path, capsys):
    few = write_text(tmp_path / "few.txt", documents=12)
    options = {**AUTO, "sample_every": 0, "max_steps": 600, "hidden_size": 64, "log_every": 10}
    assert command(*train_words(few, tmp_path / "run", **options)) == 0
    assert capsys.readouterr().out.count("hint: ") == 1
