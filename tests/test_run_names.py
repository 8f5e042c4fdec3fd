"""A run is found wherever `train` puts it, and named as an argument or by --checkpoint; all else is a prompt."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from runs import TINY, cache, command, flags, refusal, runs_in, text, train_words

from llamita.config import ExecutionConfig, RunConfig, replace
from llamita.errors import UserError
from llamita.train.identity import default_directory
from llamita.train.run_directory import newest_run

fixtures = (cache, text)
GREEDY = ["--temperature", "0", "--max_tokens", "3"]


@pytest.fixture
def run(text, tmp_path) -> Path:
    assert command(*train_words(text, tmp_path / "run", max_steps=1)) == 0
    return tmp_path / "run"


def generated(capsys, *words) -> tuple[str, str]:
    capsys.readouterr()
    assert command("generate", *words, *GREEDY) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_a_run_keeps_the_directory_that_earlier_versions_gave_it():
    def directory(**settings) -> str:
        data: Any = SimpleNamespace(fingerprint="tokens")
        return str(default_directory(replace(RunConfig(), **settings), data))

    assert directory() == "runs/stories-3318622f"  # as version 0.1.0 did, which knew no --minutes
    assert directory(max_steps=100) == "runs/stories-649977f2"
    assert len({directory(), directory(minutes=1), directory(minutes=2)}) == 3


def test_a_run_in_a_folder_of_runs_is_the_newest(text, tmp_path, capsys):
    small = flags(data=text, **{**TINY, "max_steps": 1})
    assert command("train", *small) == 0
    assert command("train", *small, "--name", "a/b/c", "--seed", "1") == 0
    (found,) = runs_in(tmp_path / "runs" / "a" / "b")
    assert found.name.startswith("c-")
    os.utime(found / "metrics.jsonl", (2e9, 2e9))
    assert newest_run() == Path("runs") / "a" / "b" / found.name
    assert command("eval") == 0
    assert f"checkpoint      {Path('runs') / 'a' / 'b' / found.name}" in capsys.readouterr().out
    assert str(Path("runs") / "a" / "b" / found.name) in generated(capsys, "the")[1]


def test_folders_that_lead_back_to_themselves_are_no_trouble(run, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "loop").symlink_to(tmp_path / "runs", target_is_directory=True)
    (tmp_path / "runs" / "link").symlink_to(run, target_is_directory=True)
    assert newest_run(tmp_path / "runs") == tmp_path / "runs" / "link"


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../b", ".."])
def test_a_name_outside_of_runs_is_refused(text, tmp_path, capsys, name):
    error = refusal(capsys, "train", *flags(data=text, **TINY, name=name))
    assert "must stay inside runs/: give the run's path with --output_dir" in error
    assert not (tmp_path / "runs").exists()


def test_a_name_too_long_for_a_folder_is_refused():
    with pytest.raises(UserError, match="at most 200 bytes"):
        ExecutionConfig(name="é" * 150)


@pytest.mark.parametrize("name", ["run", "run/latest", "run/best", "run/step_00000001", "./run/"])
def test_a_run_may_be_named_by_an_argument(run, capsys, name):
    expected = generated(capsys, "--checkpoint", name, "--prompt", "the")
    assert generated(capsys, name, "the") == expected
    assert generated(capsys, name, "--prompt", "the") == expected
    assert command("eval", name) == 0
    by_argument = capsys.readouterr().out.splitlines()
    assert command("eval", "--checkpoint", name) == 0
    by_flag = capsys.readouterr().out.splitlines()
    assert [line for line in by_argument if "speed" not in line] == [line for line in by_flag if "speed" not in line]


def test_a_single_word_that_is_a_run_is_one(run, capsys, monkeypatch):
    monkeypatch.setattr("llamita.cli.generate._read_pipe", lambda: "the sun")
    assert generated(capsys, "run")[0].startswith("the sun")


def test_a_single_word_that_is_no_run_is_the_prompt(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    run.rename(tmp_path / "runs" / "mine")
    for prompt in ("the", "the hill and the sun", "", "a" * 5000):
        assert generated(capsys, prompt)[0].startswith(prompt)


def test_a_path_that_is_no_run_is_the_prompt_with_a_note(text, tmp_path, capsys):
    """Also where it has some of a run's files, and where it would be in a folder that exists."""
    bpe = {"tokenizer": "bpe", "vocab_size": 300, "max_steps": 1}
    assert command("train", *flags(data=text, **{**TINY, **bpe})) == 0
    (tmp_path / "runs" / "nearly").mkdir(parents=True)
    (tmp_path / "runs" / "nearly" / "config.toml").write_text("[model]\n")
    (tmp_path / "hill").mkdir()
    for place in ("hill", "text.txt", "runs/nearly", "runs/nothing", "runs", "./hill"):
        out, error = generated(capsys, place)
        assert out.startswith(place)
        assert f"note: '{place}' is the prompt: there is no run of that name" in error
    for prompt in ("and/or", "hills", "a/b c"):
        assert "is the prompt" not in generated(capsys, prompt)[1]


def test_prompt_is_always_text(run, capsys):
    (run.parent / "the").symlink_to(run, target_is_directory=True)
    assert generated(capsys, "--checkpoint", "run", "--prompt", "the")[0].startswith("the")
    assert generated(capsys, "--checkpoint", "run", "the")[0].startswith("the")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "run", "the", "--checkpoint", "run"], "--checkpoint and 'run' say the same"),
        (["generate", "run", "the", "--prompt", "a"], "--prompt and 'the' say the same"),
        (["generate", "run", "--checkpoint", "run", "--prompt", "a"], "the run is named twice"),
        (["generate", "nowhere", "--prompt", "a"], "nowhere: no such run or checkpoint"),
        (["generate", "Once", "upon"], "'Once' is not a run: put a prompt of several words in quotes"),
        (["generate", "Once", "upon", "a", "time"], "in quotes"),
        (["generate", "run/step_00000099"], "run/step_00000099: no such run or checkpoint"),
        (["eval", "run", "--checkpoint", "run"], "the run is named twice"),
        (["eval", "nowhere"], "nowhere: no such run or checkpoint"),
        (["eval", "text.txt"], "text.txt: neither a run nor a checkpoint"),
        (["eval", "run", "run"], "unexpected argument 'run'"),
    ],
    ids=str,
)
def test_what_names_no_run_or_two_is_told(run, capsys, words, message):
    assert message in refusal(capsys, *words)
