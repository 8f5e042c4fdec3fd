"""Whole numbers are read as people write them, from flags, files and Python; fractions are refused, not rounded."""

import pytest
from runs import refusal
from test_cli import configuration

from llamita.config import RunConfig, replace, whole_number
from llamita.errors import UserError

WHOLE = {
    "12": 12, "1_000": 1000, "1e4": 10_000, "1E4": 10_000, "1e+4": 10_000, "10k": 10_000, "10K": 10_000,
    "1M": 10**6, "2.5k": 2500, "2.5e3": 2500, "0.5M": 500_000, "1B": 10**9, "30.0": 30, "3.": 3, ".5k": 500,
    "1.5e1": 15, "10.0e-1": 1, "0": 0, "0e0": 0, "007": 7, "+5": 5, " 5 ": 5,
}  # fmt: skip
FRACTIONS = ["1.25e1", "0.5e0", ".5", "1.5", "2.0001", "1e-3", "5e-1", "1.2345k", "12.5", "1e999", "1e-999"]


@pytest.mark.parametrize(("written", "value"), WHOLE.items())
def test_a_whole_number_is_read(written, value):
    assert whole_number(written) == value


@pytest.mark.parametrize("written", FRACTIONS)
def test_a_fraction_is_refused_by_the_name_of_its_flag(capsys, written):
    for flag in ("--max_steps", "--max-iters", "--hidden_size", "--eval_every", "--micro_batch_size"):
        assert f"{flag} is {written}, but must be a whole number" in refusal(capsys, "train", flag, written)
        assert f"{flag} is {written}, but must be a whole number" in refusal(capsys, "train", f"{flag}={written}")


@pytest.mark.parametrize(
    "written", ["auto", "epoch", "many", "", "k", "e5", "1kk", "1k5", "1e4k5", "1,000", "0x10", "--"]
)
def test_what_is_no_decimal_number_is_left_to_others(written):
    assert whole_number(written) is None


@pytest.mark.parametrize("written", ["nan", "inf", "many", "1,000", "k", "1e4.5", "9" * 5000])
def test_what_is_not_a_number_is_refused_by_the_name_of_its_flag(capsys, written):
    assert "--max_steps" in refusal(capsys, "train", "--max_steps", written)


def test_numbers_with_exponents_and_suffixes_reach_the_configuration(monkeypatch):
    words = [
        "--max_steps",
        "1e4",
        "--vocab_size=10k",
        "--seed",
        "1M",
        "--eval_every",
        "2.5k",
        "--micro_batch_size",
        "auto",
    ]
    config = configuration(monkeypatch, *words, "--epochs", "0", "--log_every", "epoch", "--batch_size", "1_6")
    assert (config.training.max_steps, config.model.vocab_size, config.training.seed) == (10_000, 10_000, 10**6)
    assert (config.run.eval_every, config.run.micro_batch_size, config.run.log_every) == (2500, "auto", "epoch")
    assert config.training.batch_size == 16


@pytest.mark.parametrize(("written", "value"), {"1e4": 10_000, "10_000": 10_000, "8.0": 8, "2.5e3": 2500}.items())
def test_a_file_may_use_exponents(monkeypatch, tmp_path, written, value):
    (tmp_path / "mine.toml").write_text(f"[training]\nmax_steps = {written}\n[run]\neval_every = {written}\n")
    config = RunConfig.from_toml(tmp_path / "mine.toml")
    assert (config.training.max_steps, config.run.eval_every) == (value, value)
    assert type(config.training.max_steps) is int
    assert configuration(monkeypatch, "--config", str(tmp_path / "mine.toml")) == config


@pytest.mark.parametrize("written", ["1.25e1", "0.5", "1e300", "inf", "nan", "'10k'", "true"])
def test_a_file_with_anything_else_is_refused(tmp_path, written):
    (tmp_path / "mine.toml").write_text(f"[training]\nmax_steps = {written}\n")
    with pytest.raises(UserError, match=r"max_steps is .*, but must be a whole number"):
        RunConfig.from_toml(tmp_path / "mine.toml")


def test_python_takes_whole_floats():
    assert replace(RunConfig(), max_steps=1e4).training.max_steps == 10_000
    with pytest.raises(UserError, match=r"max_steps is 1\.5, but must be a whole number"):
        replace(RunConfig(), max_steps=1.5)


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["--num_layers", "1", "--seed", "0", "1", "2"], "--seed"),
        (["--seed", "0", "1", "2", "--num_layers", "1"], "--seed"),
        (["--data", "a", "b", "1", "--seed=0", "1"], "--seed"),
        (["--lr", "1e-3", "3e-4", "--seed", "1"], "--lr"),
        (["--n-embd", "64", "128"], "--n-embd"),
        (["--name", "my", "run"], "--name"),
    ],
    ids=str,
)
def test_a_value_too_many_is_blamed_on_its_flag(capsys, words, flag):
    assert f"{flag} takes one value, so" in refusal(capsys, "train", *words)
