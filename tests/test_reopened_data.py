"""A run finds its tokens again: from another folder, and without its text."""

import os
import shutil
from pathlib import Path

import pytest
from runs import cache as cache
from runs import command, refusal, rows, train_words, write_text
from runs import text as text

from llamita.data import open_dataset, reopen_dataset
from llamita.train import RunDirectory


@pytest.fixture
def run(text, tmp_path, monkeypatch) -> Path:
    """A finished run in project/run, whose text was named relative to the project."""
    (tmp_path / "project" / "texts").mkdir(parents=True)
    shutil.move(text, tmp_path / "project" / "texts" / "a.txt")
    monkeypatch.chdir(tmp_path / "project")
    assert command(*train_words(Path("texts/a.txt"), Path("run"))) == 0
    return tmp_path / "project" / "run"


def scored(capsys, *words) -> str:
    """What `eval` prints of the loss."""
    capsys.readouterr()
    assert command("eval", *words) == 0
    return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("loss "))


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def test_a_run_is_evaluated_from_anywhere_with_or_without_its_text(run, elsewhere, monkeypatch, capsys):
    expected = scored(capsys, "--checkpoint", run)
    monkeypatch.chdir(elsewhere)
    (elsewhere / "texts").mkdir()
    write_text(elsewhere / "texts" / "a.txt", seed=9)  # another text at the same relative place
    assert scored(capsys, "--checkpoint", run) == expected
    shutil.rmtree(run.parent / "texts")
    assert scored(capsys, "--checkpoint", run) == expected
    write_text(elsewhere / "b.txt")
    assert scored(capsys, "--checkpoint", os.path.relpath(run)) == expected


def test_text_that_has_changed_since_is_evaluated_as_it_was(run, capsys):
    expected = scored(capsys, "--checkpoint", run)
    write_text(Path("texts/a.txt"), seed=1)
    assert scored(capsys, "--checkpoint", run) == expected


def test_without_the_cache_the_text_is_found_where_it_was(run, cache, elsewhere, monkeypatch, capsys):
    expected = scored(capsys, "--checkpoint", run)
    shutil.rmtree(cache)
    monkeypatch.chdir(elsewhere)
    assert scored(capsys, "--checkpoint", run) == expected


def test_without_the_cache_changed_or_missing_text_is_refused_in_one_line(run, cache, elsewhere, monkeypatch, capsys):
    shutil.rmtree(cache)
    write_text(Path("texts/a.txt"), seed=1)
    monkeypatch.chdir(elsewhere)
    assert "the text of this run has changed since" in refusal(capsys, "eval", "--checkpoint", run)
    shutil.rmtree(cache)
    shutil.rmtree(run.parent / "texts")
    assert "a.txt: no such file" in refusal(capsys, "eval", "--checkpoint", run)


def test_a_cache_that_was_moved_is_searched_by_the_fingerprint(run, cache, tmp_path, capsys):
    expected = scored(capsys, "--checkpoint", run)
    shutil.move(cache, tmp_path / "moved")
    shutil.rmtree(run.parent / "texts")
    refusal(capsys, "eval", "--checkpoint", run)
    assert scored(capsys, "--checkpoint", run, "--cache_dir", "../moved") == expected


def test_a_run_of_an_earlier_version_is_found_in_the_cache_by_its_fingerprint(run, elsewhere, monkeypatch):
    directory = RunDirectory(run)
    facts = {"data_fingerprint": directory.facts()["data_fingerprint"]}
    monkeypatch.chdir(elsewhere)
    assert reopen_dataset(directory.config(), facts).fingerprint == facts["data_fingerprint"]


def test_reopened_data_have_the_windows_of_the_run(run):
    config, facts = RunDirectory(run).config(), RunDirectory(run).facts()
    first, again = open_dataset(config), reopen_dataset(config, facts)
    assert (len(first.train), len(first.validation)) == (len(again.train), len(again.validation))
    assert (first.fingerprint, first.defaults, first.floor) == (again.fingerprint, again.defaults, again.floor)


def test_a_prepared_folder_is_found_from_anywhere(text, tmp_path, elsewhere, monkeypatch, capsys):
    assert command("prepare", "--data", text, "--tokenizer", "char", "--output_dir", "tokens") == 0
    assert command(*train_words(Path("tokens"), Path("run"))) == 0
    expected = scored(capsys, "--checkpoint", "run")
    monkeypatch.chdir(elsewhere)
    assert scored(capsys, "--checkpoint", tmp_path / "run") == expected


def test_a_repeated_command_resumes_though_it_is_given_elsewhere(run, elsewhere, monkeypatch, capsys):
    before = rows(run)
    monkeypatch.chdir(elsewhere)
    assert command(*train_words(run.parent / "texts" / "a.txt", run)) == 0
    assert rows(run) == before
