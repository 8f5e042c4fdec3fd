"""The result of a run: one line of JSON with --json, and one of results.tsv for every run that finishes."""

import csv
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from runs import cache, command, disturb, rows, start, text, train_words

from llamita.train import RunDirectory
from llamita.train.result import COLUMNS, append_row
from llamita.train.steps import sample as real_sample

fixtures = (cache, text)
FIELDS = {
    "run", "steps", "seconds", "tokens", "train_loss", "val_loss", "bits_per_byte", "loss_floor", "parameters",
    "code_digest", "finished",
}  # fmt: skip


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_json_is_the_only_line_on_standard_output(text, tmp_path):
    words = [sys.executable, "-m", "llamita", *train_words(text, tmp_path / "run"), "--json"]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.count("\n") == 1
    result = json.loads(done.stdout)
    logged = rows(tmp_path / "run")
    assert result.keys() == FIELDS
    assert (result["run"], result["steps"], result["finished"]) == (str(tmp_path / "run"), 12, True)
    assert (result["loss_floor"], result["tokens"]) == (None, logged[-1]["tokens"])
    assert (result["val_loss"], result["bits_per_byte"]) == (logged[-1]["val_loss"], logged[-1]["bits_per_byte"])
    assert result["train_loss"] == logged[-2]["train_loss"]
    assert 0 < result["seconds"] < 60
    assert "finished at step 12" in done.stderr
    assert RunDirectory(tmp_path / "run").facts()["code_digest"].startswith(result["code_digest"])


@pytest.mark.slow
def test_a_run_in_two_processes_prints_its_result_once(text, tmp_path):
    assert (
        disturb(start([*train_words(text, tmp_path / "run", world_size=2), "--json"], tmp_path), 0, lambda: False) == 0
    )
    (line,) = (tmp_path / "out").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["finished"] is True
    assert len(table(tmp_path)) == 1


def test_every_finished_run_is_one_line_of_a_table_next_to_it(text, tmp_path, capsys):
    assert command(*train_words(text, tmp_path / "runs" / "first")) == 0
    assert command(*train_words(text, tmp_path / "runs" / "second", seed=1), "--json") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    first, second = table(tmp_path / "runs")
    assert list(first) == list(COLUMNS)
    assert (first["run"], first["steps"]) == (str(tmp_path / "runs" / "first"), "12")
    expected = {name: "" if value is None else str(value) for name, value in json.loads(line).items()}
    assert {**second, "seconds": ""} == {**second, **{n: v for n, v in expected.items() if n in COLUMNS}, "seconds": ""}


def test_a_run_that_was_already_finished_is_not_recorded_again_but_printed(text, tmp_path, capsys):
    words = train_words(text, tmp_path / "run")
    assert command(*words) == 0
    capsys.readouterr()
    assert command(*words, "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["steps"], again["finished"]) == (12, True)
    assert again["seconds"] > 0
    assert len(table(tmp_path)) == 1


def test_a_run_that_lost_its_last_samples_is_recorded_when_it_makes_up_for_them(text, tmp_path, monkeypatch):
    words = train_words(text, tmp_path / "run", sample_every=12)

    def crash(run: Any) -> None:
        if run.state.step == 12:
            raise RuntimeError("crash")
        real_sample(run)

    with monkeypatch.context() as once:
        once.setattr("llamita.train.loop.sample", crash)
        with pytest.raises(RuntimeError, match="crash"):
            command(*words)
    assert not (tmp_path / "results.tsv").exists()
    assert command(*words) == 0
    assert len(table(tmp_path)) == 1


def test_a_run_that_diverges_or_is_stopped_is_not_finished(text, tmp_path, capsys):
    assert command(*train_words(text, tmp_path / "diverged", learning_rate=1e30, grad_clip=0), "--json") == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["finished"] is False
    assert "training has diverged" in printed.err
    run = tmp_path / "stopped"
    process = start([*train_words(text, run, max_steps=10_000), "--json"], tmp_path)
    assert disturb(process, signal.SIGINT, lambda: bool(rows_so_far(run))) == 130
    (line,) = (tmp_path / "out").read_text(encoding="utf-8").splitlines()
    stopped = json.loads(line)
    assert (stopped["run"], stopped["finished"]) == (str(run), False)
    assert not (tmp_path / "results.tsv").exists()


def rows_so_far(run: Path) -> bytes:
    return (run / "metrics.jsonl").read_bytes() if (run / "metrics.jsonl").exists() else b""


def test_lines_that_are_appended_at_the_same_time_are_all_there_under_one_header(tmp_path):
    row: dict[str, Any] = {**dict.fromkeys(COLUMNS), "run": "a\tb\nc"}
    file = tmp_path / "results.tsv"
    threads = [threading.Thread(target=append_row, args=(file, {**row, "steps": step})) for step in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = table(tmp_path)
    assert sorted(int(line["steps"]) for line in found) == list(range(20))
    assert {line["run"] for line in found} == {"a b c"}


def test_a_table_that_cannot_be_written_is_a_note(text, tmp_path, capsys):
    (tmp_path / "results.tsv").mkdir()
    assert command(*train_words(text, tmp_path / "run")) == 0
    assert "note: " in capsys.readouterr().out
