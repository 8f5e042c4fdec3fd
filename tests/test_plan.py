"""What a run says beforehand: its learning rate, its schedule, and how often it will see its text."""

import math
import re

import pytest
from runs import cache, command, flags, text, tiny_config, train_words, training_rows

from llamita.data import open_dataset

fixtures = (cache, text)


def planned(capsys: pytest.CaptureFixture[str], heading: str) -> str:
    """A line of the plan that was just printed."""
    (line,) = re.findall(rf"^{heading} +(.*)$", capsys.readouterr().out, re.MULTILINE)
    return line


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "AdamW, peak learning rate 0.01 after 2 warmup steps, cosine decay to 0"),
        ({"warmup_steps": 0}, "AdamW, peak learning rate 0.01, cosine decay to 0"),
        ({"schedule": "linear", "min_learning_rate": 1e-4, "learning_rate": 3e-4},
         "AdamW, peak learning rate 0.0003 after 2 warmup steps, linear decay to 0.0001"),
        ({"schedule": "constant"},
         "AdamW, peak learning rate 0.01 after 2 warmup steps, constant, then linear decay to 0 over the last 10%"),
        ({"schedule": "constant", "decay_share": 0},
         "AdamW, peak learning rate 0.01 after 2 warmup steps, constant"),
    ],
    ids=str,
)  # fmt: skip
def test_the_plan_gives_the_peak_learning_rate_the_warmup_and_the_schedule(text, tmp_path, capsys, options, expected):
    assert command(*train_words(text, tmp_path / "run", **options)) == 0
    assert planned(capsys, "optimizer") == expected


@pytest.mark.parametrize("head_init", ["random", "copy"])
def test_a_learning_rate_that_nobody_set_is_in_the_plan_as_it_is_used(text, tmp_path, capsys, head_init):
    options = {"learning_rate": 0, "head_init": head_init, "hidden_size": 256, "num_heads": 8, "max_steps": 4}
    assert command(*train_words(text, tmp_path / "run", warmup_steps=0, **options)) == 0
    used = training_rows(tmp_path / "run")[0]["lr"]
    assert used == pytest.approx({"random": 0.75, "copy": 1.5}[head_init] / 256)
    assert f"peak learning rate {used:.4g}, " in planned(capsys, "optimizer")


@pytest.mark.parametrize("length", [{"max_steps": 0}, {"max_steps": 400}], ids=str)
def test_many_epochs_of_a_small_text_are_announced_with_what_to_do(text, tmp_path, capsys, monkeypatch, length):
    monkeypatch.setattr("llamita.train.resolve.DEFAULT_STEPS", 400)
    options = {**length, "save_every": 400, "eval_every": 400, "log_every": 400}
    assert command(*train_words(text, tmp_path / "run", **options)) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    windows = len(open_dataset(tiny_config(text)).train)
    assert f"400 steps are {400 * 4 / windows:.0f} epochs of this text" in line
    assert f"--epochs 4 is {math.ceil(4 * windows / 4)} steps" in line


@pytest.mark.parametrize("length", [{"max_steps": 0, "epochs": 9}, {"max_steps": 20}], ids=str)
def test_epochs_that_the_user_asked_for_and_few_ones_are_not_warned_of(text, tmp_path, capsys, length):
    assert command(*train_words(text, tmp_path / "run", **length)) == 0
    assert "warning: " not in capsys.readouterr().out


def test_the_end_tells_the_total_time(text, tmp_path, capsys):
    assert command("train", *flags(data=text, max_steps=3, hidden_size=16, output_dir=tmp_path / "run", threads=1)) == 0
    assert re.search(r"^finished at step 3, total time \d+:\d\d$", capsys.readouterr().out, re.MULTILINE)
