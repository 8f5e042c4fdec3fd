"""A run whose code has changed is not silently resumed: it is refused, restarted beside, or continued with a note."""

import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from runs import cache as cache
from runs import command, digest, disturb, ended, last_checkpoint, refusal, runs_in, start, train_words, tree
from runs import text as text

from llamita import code_digest
from llamita.code_digest import PACKAGE
from llamita.train import RunDirectory
from llamita.train.directory_choice import numbered


def edited(folder: Path, file: str = "model/norm.py", old: str = "", new: str = "\nTHE_EDIT = 1\n") -> Path:
    """A copy of the package in which `old` (default: the end) of a file is replaced by `new`."""
    copy = shutil.copytree(PACKAGE, folder / "llamita", ignore=shutil.ignore_patterns("__pycache__"))
    source = (copy / file).read_text(encoding="utf-8")
    assert old in source
    (copy / file).write_text(source.replace(old, new) if old else source + new, encoding="utf-8")
    return copy


@pytest.fixture
def code_is(monkeypatch):
    """A function that makes this process take its code for that of another package; None: for what it is."""

    def become(package: Path | None) -> None:
        monkeypatch.setattr(code_digest, "PACKAGE", package or PACKAGE)
        code_digest.running_code.cache_clear()

    yield become
    monkeypatch.undo()
    code_digest.running_code.cache_clear()


@pytest.fixture
def edit(tmp_path) -> Path:
    return edited(tmp_path / "edit")


def facts(run: Path) -> dict[str, Any]:
    return RunDirectory(run).facts()


def unfinish(run: Path) -> None:
    """Take away the last checkpoint, of step 12: the run was killed before it was saved."""
    shutil.rmtree(run / "step_00000012")


@pytest.fixture
def finished(text, tmp_path) -> tuple[Path, list[str]]:
    """A finished run of the code as it is, and the command that made it."""
    words = train_words(text, tmp_path / "run")
    assert command(*words) == 0
    return tmp_path / "run", words


def test_a_run_records_its_code_file_by_file(finished):
    run, _ = finished
    assert facts(run)["code"] == code_digest.running_code()
    assert facts(run)["code_digest"] == code_digest.code_digest(code_digest.running_code())
    assert "code_changes" not in facts(run)


def test_after_an_edit_of_a_comment_the_same_command_finds_its_run(finished, code_is, tmp_path):
    run, words = finished
    before = tree(run)
    code_is(edited(tmp_path / "edit", new="\n# A comment.\n"))
    assert command(*words) == 0
    assert tree(run) == before
    assert not numbered(run, 2).exists()


def test_after_an_edit_of_what_computes_the_old_run_is_refused_and_one_line_names_file_and_ways(
    finished, code_is, edit, capsys
):
    run, words = finished
    before = tree(run)
    code_is(edit)
    message = refusal(capsys, *words)
    assert all(part in message for part in (str(run), "(model/norm.py)", "--new", "--allow_changed_code"))
    assert tree(run) == before
    code_is(None)
    assert command(*words) == 0  # the edit was taken back


def test_new_begins_a_numbered_directory_which_the_same_command_finds_again(finished, code_is, edit, tmp_path):
    run, words = finished
    before = tree(run)
    code_is(edit)
    assert command(*words, "--new") == 0
    second = numbered(run, 2)
    made = tree(second)
    for again in (words, [*words, "--new"]):
        assert command(*again) == 0
    assert tree(second) == made
    code_is(edited(tmp_path / "again", "ops/reference.py"))
    assert command(*words, "--new") == 0
    assert (numbered(run, 3) / "step_00000012").exists()
    assert not numbered(run, 4).exists()
    code_is(None)
    assert command(*words) == 0
    assert tree(run) == before


def test_new_without_a_run_begins_the_directory_of_the_command(text, tmp_path):
    assert command(*train_words(text, tmp_path / "run", new=True)) == 0
    assert (tmp_path / "run" / "config.toml").exists()
    assert not numbered(tmp_path / "run", 2).exists()


def become_edited(package: Path) -> None:
    """In another process: let its code be that of `package`."""
    code_digest.PACKAGE = package
    code_digest.running_code.cache_clear()


def test_new_repeated_after_a_kill_resumes_what_it_began(text, tmp_path, edit):
    options = {"max_steps": 60, "save_every": 5, "eval_every": 30}
    run, words = tmp_path / "run", train_words(text, tmp_path / "run", **options)
    assert ended(start(words, tmp_path)) == 0
    second = numbered(run, 2)
    killed = start([*words, "--new"], tmp_path, become_edited, edit)
    assert disturb(killed, signal.SIGKILL, lambda: (second / "step_00000005").exists()) == -signal.SIGKILL
    assert ended(start([*words, "--new"], tmp_path, become_edited, edit)) == 0
    assert "resuming at step" in (tmp_path / "out").read_text()
    assert last_checkpoint(second) == last_checkpoint(run)  # what was edited changes no number
    assert not numbered(run, 3).exists()


def test_if_allowed_a_run_continues_with_changed_code_and_records_the_step(finished, code_is, edit, capsys):
    run, words = finished
    expected = last_checkpoint(run)
    unfinish(run)
    began = facts(run)["code_digest"]
    code_is(edit)
    capsys.readouterr()
    assert command(*words, "--allow_changed_code") == 0
    assert "continues with changed code (model/norm.py)" in capsys.readouterr().out
    now = code_digest.code_digest(code_digest.running_code())
    assert facts(run)["code_changes"] == [{"step": 8, "code_digest": now, "files": ["model/norm.py"]}]
    assert facts(run)["code_digest"] == now != began
    assert last_checkpoint(run) == expected  # what was edited changes no number
    capsys.readouterr()
    assert command(*words) == 0  # from now on it is the code of this run
    assert "changed" not in capsys.readouterr().out
    code_is(None)
    assert "(model/norm.py)" in refusal(capsys, *words)


def test_every_change_of_code_is_noted(finished, code_is, edit, tmp_path):
    run, words = finished
    for package, files in ((edit, ["model/norm.py"]), (None, ["model/norm.py"])):
        unfinish(run)
        code_is(package)
        assert command(*words, "--allow_changed_code") == 0
        assert facts(run)["code_changes"][-1]["files"] == files
    assert [change["step"] for change in facts(run)["code_changes"]] == [8, 8]


def test_allowing_a_finished_run_changes_nothing(finished, code_is, edit):
    run, words = finished
    before = tree(run)
    code_is(edit)
    assert command(*words, "--allow_changed_code") == 0
    assert tree(run) == before


def test_what_was_allowed_once_is_not_allowed_by_the_config_of_the_run(finished, code_is, edit, tmp_path, capsys):
    run, words = finished
    unfinish(run)
    code_is(edit)
    assert command(*words, "--allow_changed_code", "--new") == 0
    written = tomllib.loads((numbered(run, 2) / "config.toml").read_text())["run"]
    assert not written.keys() & {"new", "allow_changed_code", "extend"}
    code_is(edited(tmp_path / "again", "model/llama.py"))
    assert "(model/llama.py, model/norm.py)" in refusal(capsys, "train", "--config", numbered(run, 2) / "config.toml")


def forget_code(run: Path) -> None:
    """Make it the run of an older version, which recorded no code."""
    tables = tomllib.loads((run / "config.toml").read_text())
    del tables["facts"]["code_digest"], tables["facts"]["code"]
    (run / "config.toml").write_text(tomli_w.dumps(tables))


def test_a_run_of_an_older_version_is_resumed_with_a_note_and_records_its_code_from_there(finished, capsys):
    run, words = finished
    expected = last_checkpoint(run)
    unfinish(run)
    forget_code(run)
    capsys.readouterr()
    assert command(*words) == 0
    assert capsys.readouterr().out.count("does not record which code computed it") == 1
    assert last_checkpoint(run) == expected
    now = code_digest.code_digest(code_digest.running_code())
    assert facts(run)["code_changes"] == [{"step": 8, "code_digest": now, "files": []}]
    assert command(*words) == 0
    assert "does not record" not in capsys.readouterr().out


def test_a_run_without_checkpoints_starts_from_scratch_with_the_current_code(text, tmp_path, code_is, edit):
    """As when the first edit fails at step 1: nobody is asked what to do with a run of no steps."""
    run, words = tmp_path / "run", train_words(text, tmp_path / "run")
    assert command(*words) == 0
    expected = last_checkpoint(run)
    for checkpoint in run.glob("step_*"):
        shutil.rmtree(checkpoint)
    code_is(edit)
    assert command(*words) == 0
    assert facts(run)["code"] == code_digest.running_code()
    assert "code_changes" not in facts(run)
    assert last_checkpoint(run) == expected


def test_a_run_that_saved_nothing_but_is_still_training_is_left_alone(finished, text, code_is, edit, capsys):
    run, words = finished
    for checkpoint in run.glob("step_*"):
        shutil.rmtree(checkpoint)
    code_is(edit)
    with RunDirectory(run).lock():
        assert "--new" in refusal(capsys, *words)
        assert command(*words, "--new") == 0
    assert (numbered(run, 2) / "step_00000012").exists()


def test_a_default_directory_is_numbered_too(text, tmp_path, code_is, edit):
    words = [word for word in train_words(text, Path("gone")) if word not in ("--output_dir", "gone")]
    assert command(*words) == 0
    (run,) = runs_in(tmp_path / "runs")
    code_is(edit)
    assert command(*words, "--new") == 0
    assert runs_in(tmp_path / "runs") == [run, numbered(run, 2)]


def test_a_numbered_directory_that_another_command_made_is_neither_found_nor_touched(
    finished, text, code_is, edit, capsys
):
    """`run-2` and `run-3` are runs that were named so, with the same settings and with others."""
    run, words = finished
    code_is(edit)
    assert command(*train_words(text, numbered(run, 2))) == 0
    assert command(*train_words(text, numbered(run, 3), seed=1)) == 0
    numbered(run, 4).mkdir()
    (numbered(run, 4) / "notes.txt").touch()
    others = [tree(numbered(run, number)) for number in (2, 3, 4)]
    assert "--new" in refusal(capsys, *words)
    assert command(*words, "--new") == 0
    assert [tree(numbered(run, number)) for number in (2, 3, 4)] == others
    assert (numbered(run, 5) / "step_00000012").exists()


def test_a_run_of_another_identity_is_told_as_such_not_as_changed_code(finished, text, code_is, edit, capsys):
    run, _ = finished
    code_is(edit)
    assert "seed 0 -> 1" in refusal(capsys, *train_words(text, run, seed=1, new=True))


@pytest.mark.parametrize("words", [["generate", "a", "--max_new_tokens", "2"], ["eval"]], ids=lambda words: words[0])
def test_generate_and_eval_note_changed_code_on_stderr_and_work(finished, code_is, edit, capsys, words):
    run, _ = finished
    capsys.readouterr()
    assert command(*words, "--checkpoint", run) == 0
    same = capsys.readouterr()
    assert same.err == ""
    code_is(edit)
    assert command(*words, "--checkpoint", run) == 0
    changed = capsys.readouterr()
    assert changed.err == "note: the code has changed since this run was trained (model/norm.py)\n"
    assert changed.out.splitlines()[:2] == same.out.splitlines()[:2]


def run_package(package: Path, *words: Any) -> subprocess.CompletedProcess[str]:
    """A command of the llamita in `package`, as a process of its own."""
    path = {"PYTHONPATH": str(package.parent)}
    call = [sys.executable, "-m", "llamita", *map(str, words), "--kernels", "plain"]  # which nobody has to compile
    return subprocess.run(call, env={**os.environ, **path}, capture_output=True, text=True, timeout=120)


def test_a_line_of_the_model_that_is_really_edited_is_another_run_with_other_weights(finished):
    """From the edit of a file to the weights, by commands alone."""
    run, words = finished
    package = edited(run.parent / "edit", "model/norm.py", "self.weight, self.eps", "self.weight, 1.5 + self.eps")
    refused = run_package(package, *words)
    assert refused.returncode == 2
    assert "(model/norm.py): start another run with --new" in " ".join(refused.stderr.split())
    new = run_package(package, *words, "--new")
    assert new.returncode == 0, new.stderr
    second = numbered(run, 2)
    assert digest(second / "step_00000012" / "model.safetensors") != digest(run / "step_00000012" / "model.safetensors")


@pytest.mark.slow
def test_in_two_processes_the_main_one_decides_and_all_train_in_the_same_directory(finished, text):
    run, _ = finished
    package = edited(run.parent / "edit")
    words = train_words(text, run, world_size=2)
    refused = run_package(package, *words)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    new = run_package(package, *words, "--new")
    assert new.returncode == 0, new.stderr
    assert facts(numbered(run, 2))["world_size"] == 2
    assert (numbered(run, 2) / "step_00000012").exists()
    assert not numbered(run, 3).exists()
