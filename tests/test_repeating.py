"""`--config RUN/config.toml` repeats that run: what `auto` chose there is chosen again where it fits."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from runs import cache as cache
from runs import command, outcome, train_words
from runs import text as text

from llamita.train import RunDirectory

AUTOMATIC = {"device": "auto", "precision": "auto", "threads": 0, "micro_batch_size": "auto"}
SHAPE = {"hidden_size": 32, "num_layers": 2, "max_seq_len": 64, "batch_size": 8, "sample_every": 6, "dropout": 0.1}


def facts(run: Path) -> dict[str, Any]:
    return RunDirectory(run).facts()


def rewrite_facts(run: Path, **changes: Any) -> None:
    """Let a run have chosen otherwise, as on another machine."""
    tables = tomllib.loads((run / "config.toml").read_text())
    tables["facts"].update(changes)
    (run / "config.toml").write_text(tomli_w.dumps(tables))


@pytest.fixture
def automatic(text, tmp_path) -> Path:
    """A finished run in which everything was left to `auto`."""
    assert command(*train_words(text, tmp_path / "run", **SHAPE, **AUTOMATIC, grad_accum_steps=2)) == 0
    return tmp_path / "run"


def repeat(run: Path, name: str = "again", *words: Any) -> Path:
    """A run in another directory by the config.toml of `run`."""
    assert command("train", "--config", run / "config.toml", "--output_dir", run.with_name(name), *words) == 0
    return run.with_name(name)


def test_the_config_of_a_run_repeats_it_bit_for_bit(automatic, capsys):
    capsys.readouterr()
    again = repeat(automatic)
    assert "auto` chooses again" not in capsys.readouterr().out
    assert outcome(again) == outcome(automatic)
    assert facts(again) == facts(automatic)


def test_what_auto_chose_in_a_run_is_chosen_again_though_it_would_be_chosen_otherwise_here(automatic):
    otherwise = {"threads": facts(automatic)["threads"] + 1, "precision": "fp32", "kernels": "plain"}
    otherwise["micro_batch_size"] = 3
    rewrite_facts(automatic, **otherwise)
    again = facts(repeat(automatic))
    assert {name: again[name] for name in otherwise} == otherwise
    written = tomllib.loads((automatic.with_name("again") / "config.toml").read_text())["run"]
    assert (written["threads"], written["precision"], written["kernels"]) == (0, "auto", "auto")  # still not requested


def test_flags_win_over_what_auto_chose_in_a_run(automatic):
    rewrite_facts(automatic, threads=7, micro_batch_size=3)
    again = facts(repeat(automatic, "again", "--threads", 2, "--micro_batch_size", 4))
    assert (again["threads"], again["micro_batch_size"]) == (2, 4)


@pytest.mark.parametrize(
    ("changes", "words", "reason"),
    [
        ({}, ("--hidden_size", 16), "the model has another shape"),
        ({"processor": "Z80"}, (), "the processor differs"),
        ({"device": "cuda:99", "processor": "H100"}, (), "the processor differs (no cuda:99, not H100)"),
    ],
    ids=["shape", "processor", "device"],
)
def test_for_another_shape_or_processor_auto_chooses_again_with_a_note(automatic, capsys, changes, words, reason):
    expected = {name: facts(automatic)[name] for name in ("threads", "device")}
    rewrite_facts(automatic, threads=7, **changes)
    capsys.readouterr()
    again = facts(repeat(automatic, "again", *words))
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "auto` chooses again" in line]
    assert note.startswith("note: ")
    assert reason in note
    assert {name: again[name] for name in expected} == expected


def test_a_run_that_is_repeated_and_resumed_keeps_what_it_began_with(automatic):
    rewrite_facts(automatic, threads=3)
    again = repeat(automatic)
    rewrite_facts(automatic, threads=5)
    assert facts(repeat(automatic))["threads"] == 3
    assert facts(again)["threads"] == 3


def test_repeating_a_run_of_other_code_says_so(automatic, capsys):
    rewrite_facts(automatic, code_digest="other", code={**facts(automatic)["code"], "model/llama.py": "other"})
    capsys.readouterr()
    repeat(automatic)
    assert "the code has changed since this run was trained (model/llama.py)" in capsys.readouterr().out


def test_a_machine_that_rounds_otherwise_is_noted_though_its_processor_has_the_same_name(automatic, capsys):
    here = facts(automatic)["rounding"]
    rewrite_facts(automatic, rounding="000000000000")
    capsys.readouterr()
    again = repeat(automatic)
    assert f"note: rounding was 000000000000, is {here} now: not bitwise reproducible" in capsys.readouterr().out
    assert facts(again)["rounding"] == here
