"""A run that is killed, stopped or damaged, and started again with the same command, ends as if nothing had been."""

import hashlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from runs import cache as cache
from runs import (
    command,
    digest,
    disturb,
    ended,
    flip,
    kill_at_file_operation,
    last_checkpoint,
    outcome,
    refusal,
    rows,
    start,
    train_words,
    training_rows,
    tree,
    write_text,
)
from runs import text as text

from llamita.planning import intervals
from llamita.train import RunDirectory, find_checkpoint, loop
from llamita.train.build import Run

MOMENTS = (2, 9, 24, 41, 46, 52, 33, 38, 47, 44)
"""File operations, counted from each start, before which a run is killed: while it begins, logs, saves, cleans up."""
VARIANTS = {
    "stream windows, dropout, accumulation": {"dropout": 0.2, "grad_accum_steps": 3, "sample_every": 6},
    "document windows, dropout, micro-batches": {
        "dropout": 0.1,
        "windows": "document",
        "micro_batch_size": 2,
        "sample_every": 6,
    },
}
variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())


def lines(run: Path) -> int:
    log = run / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def undisturbed(text: Path, folder: Path, **options) -> Path:
    """The run as it would have been, made by another process."""
    assert ended(start(train_words(text, folder / "undisturbed", **options), folder)) == 0
    return folder / "undisturbed"


@variants
def test_killed_at_any_file_operation_and_started_again_a_run_ends_bit_for_bit_the_same(text, tmp_path, options):
    options = {**options, "max_steps": 24}
    expected = outcome(undisturbed(text, tmp_path, **options))
    run, words = tmp_path / "run", train_words(text, tmp_path / "run", **options)
    codes = [ended(start(words, tmp_path, kill_at_file_operation, moment, run)) for moment in MOMENTS]
    assert codes == [-signal.SIGKILL] * len(MOMENTS)
    assert ended(start(words, tmp_path)) == 0
    assert outcome(run) == expected


@pytest.mark.slow
@variants
def test_killed_at_every_single_file_operation_a_run_ends_bit_for_bit_the_same(text, tmp_path, options):
    expected = outcome(undisturbed(text, tmp_path, **options))
    for moment in range(1, 1000):
        run = tmp_path / f"run{moment}"
        words = train_words(text, run, **options)
        if ended(start(words, tmp_path, kill_at_file_operation, moment, run)) == 0:
            assert moment > 50  # that many, and all before it
            return
        assert ended(start(words, tmp_path)) == 0
        assert outcome(run) == expected, f"killed at file operation {moment}"


def test_the_command_itself_killed_from_outside_again_and_again_ends_bit_for_bit_the_same(text, tmp_path):
    """Before the first checkpoint, when some line appears, and while a checkpoint is being written."""
    options = {"dropout": 0.2, "grad_accum_steps": 2, "max_steps": 60, "save_every": 10, "eval_every": 20}
    expected = outcome(undisturbed(text, tmp_path, **options))
    run, words = tmp_path / "run", train_words(text, tmp_path / "run", **options)
    moments = (lambda: lines(run) >= 4, lambda: lines(run) >= 25, lambda: any(run.glob(".step_*")))
    for happened in moments:
        assert disturb(start(words, tmp_path), signal.SIGKILL, happened) == -signal.SIGKILL
    assert subprocess.run([sys.executable, "-c", "from llamita.cli.main import main; main()", *words]).returncode == 0
    assert outcome(run) == expected


BOUNDARIES = (
    ("before", "log_training"),
    ("before", "save"),
    ("after", "save"),
    ("after", "evaluate"),
    ("after", "log_evaluation"),
    ("after", "mark_best"),
    ("before", "sample"),
    ("after", "sample"),
)
"""Places between what follows a step."""
REPORTS = {"log_every": 5, "save_every": 6, "eval_every": 4, "sample_every": 4, "dropout": 0.2}


def end_at(place: tuple[str, str], step: int) -> None:
    """Let this process end, without a last word, just before or after it does that at this step."""
    when, name = place
    act = getattr(loop, name)

    def fatal(run: Run, *arguments: Any) -> Any:
        result = act(run, *arguments) if when == "after" or run.state.step != step else None
        if run.state.step == step:
            os._exit(9)
        return result

    setattr(loop, name, fatal)


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> dict[str, Any]:
    """The outcome of an undisturbed run with `REPORTS`."""
    folder = tmp_path_factory.mktemp("reported")
    return outcome(undisturbed(write_text(folder / "text.txt"), folder, **REPORTS))


@pytest.mark.parametrize("place", BOUNDARIES, ids=" ".join)
def test_killed_between_log_save_evaluation_mark_and_samples_a_run_ends_bitwise_the_same(
    reported, text, tmp_path, place
):
    run, words = tmp_path / "run", train_words(text, tmp_path / "run", **REPORTS)
    for step in (4, 12):
        assert ended(start(words, tmp_path, end_at, place, step)) == 9
        saved = place not in BOUNDARIES[:2]
        assert (run / f"step_{step:08d}").exists() == saved
        assert training_rows(run)[-1]["step"] == (step if place != BOUNDARIES[0] else {4: 1, 12: 10}[step])
    assert ended(start(words, tmp_path)) == 0
    assert outcome(run) == reported


def stop_in(step: int) -> None:
    """Let this process be asked to stop while it computes the update after this step."""
    batch_of = loop.next_batch

    def interrupted(run: Run, number: int) -> Any:
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_of(run, number)

    loop.next_batch = interrupted


def test_stopped_at_a_step_with_an_evaluation_a_run_saves_exits_and_evaluates_first_when_resumed(
    reported, text, tmp_path
):
    run, words = tmp_path / "run", train_words(text, tmp_path / "run", **REPORTS)
    assert ended(start(words, tmp_path, stop_in, 3)) == 143
    assert (run / "step_00000004").exists()
    assert [(row["step"], row["train_loss"] is None) for row in rows(run)] == [(0, True), (1, False), (4, False)]
    assert ended(start(words, tmp_path)) == 0
    assert outcome(run) == reported


def test_a_run_that_cannot_be_evaluated_loses_nothing(text, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "evaluate", lambda run: run.state.step and 1 / 0)
    monkeypatch.setattr(loop, "_evaluate", lambda run, hint: loop.evaluate(run))
    with pytest.raises(ZeroDivisionError):
        command(*train_words(text, tmp_path / "run"))
    assert training_rows(tmp_path / "run")[-1]["step"] == 4
    assert (tmp_path / "run" / "step_00000004").exists()


def as_written_before(run: Path) -> None:
    """Turn a run into one as older versions wrote it: evaluations in the lines of their steps, seconds as timestamps,
    the best in manifests, the sizes of blocks among settings and facts."""
    lines: dict[int, dict[str, Any]] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        row["timestamp"] = datetime.fromisoformat(row["timestamp"]).timestamp()
        lines[row["step"]] = {**lines.get(row["step"], {}), **{k: v for k, v in row.items() if v is not None}}
    empty = dict.fromkeys(rows(run)[0])
    log = [json.dumps({**empty, **row}) + "\n" for row in lines.values()]
    (run / "metrics.jsonl").write_text("".join(log))
    (run / "best.json").unlink()
    for manifest in run.glob("step_*/manifest.json"):
        content = json.loads(manifest.read_text())
        del content["sha256"]
        scored = [(row["val_loss"], step) for step, row in lines.items() if "val_loss" in row and step]
        content["best_val_loss"], content["best_step"] = min(pair for pair in scored if pair[1] <= content["step"])
        content["metrics_offset"] = len("".join(log[: content["step"] + 1]))
        if (run / "samples.jsonl").exists():
            samples = (run / "samples.jsonl").read_text().splitlines(keepends=True)
            written = [line for line in samples if json.loads(line)["step"] <= content["step"]]
            content["samples_offset"] = len("".join(written).encode())
        own = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        manifest.write_text(json.dumps({**content, "sha256": own}))
    config = tomllib.loads((run / "config.toml").read_text())
    config["run"] |= {"attention_block": "auto", "head_block": "auto"}
    config["facts"] |= {"attention_block": 256, "head_block": 4096}
    (run / "config.toml").write_text(tomli_w.dumps(config))


def test_a_finished_run_of_an_older_version_is_read_as_it_is(finished):
    run, words = finished
    best = find_checkpoint(run)
    as_written_before(run)
    before = tree(run)
    assert find_checkpoint(run) == best
    assert command("eval", "--checkpoint", run, "--plot") == 0
    assert command(*words) == 0
    after = tree(run)
    assert {name for name in before if after[name] != before[name]} <= {"config.toml"}
    assert find_checkpoint(run) == best


def test_a_run_of_an_older_version_resumes_where_it_was(finished, text):
    run, words = finished
    expected = outcome(run)
    as_written_before(run)
    before = rows(run)
    unfinish(run)
    assert command(*words) == 0
    assert rows(run) == [*before[:-1], *expected["metrics"][-2:]]
    assert outcome(run)["tensors"] == expected["tensors"]
    assert outcome(run)["samples"] == expected["samples"]
    assert outcome(run)["best"] == expected["best"]


STOPS = [
    pytest.param(signal.SIGINT, 130, id="Ctrl-C"),
    pytest.param(signal.SIGTERM, 143, id="SIGTERM"),
    pytest.param(signal.SIGHUP, 129, id="SIGHUP"),
]


@pytest.mark.parametrize(("number", "code"), STOPS)
def test_a_stopped_run_saves_first_and_resumes_to_the_same_end(text, tmp_path, number, code):
    options = {"dropout": 0.2, "max_steps": 200, "save_every": 50, "eval_every": 50, "log_every": 5}
    expected = undisturbed(text, tmp_path, **options)
    run, words = tmp_path / "run", train_words(text, tmp_path / "run", **options)
    assert disturb(start(words, tmp_path), number, lambda: lines(run) >= 5) == code
    said, error = (tmp_path / "out").read_text(), (tmp_path / "err").read_text()
    (step,) = re.findall(r"stopped at step (\d+), and saved", said)
    assert (run / f"step_{int(step):08d}" / "manifest.json").exists()
    assert "Traceback" not in error
    assert ended(start(words, tmp_path)) == 0
    assert f"resuming at step {step}" in (tmp_path / "out").read_text()
    assert rows(run) == rows(expected)
    assert last_checkpoint(run) == last_checkpoint(expected)


@pytest.fixture
def finished(text, tmp_path) -> tuple[Path, list[str]]:
    """A finished run, and the command that made it."""
    words = train_words(text, tmp_path / "run", dropout=0.1, sample_every=6)
    assert command(*words) == 0
    return tmp_path / "run", words


def test_the_same_command_on_a_finished_run_changes_nothing_and_says_how_to_train_it_further(finished, text, capsys):
    run, words = finished
    before = tree(run)
    capsys.readouterr()
    assert command(*words) == 0
    assert tree(run) == before
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "already finished" in line]
    assert line.startswith(f"{run}: this run is already finished, at step 12 of 12. ")
    assert f"add --extend --output_dir {run} and a larger --max_steps" in line
    assert command(*train_words(text, run, dropout=0.1, sample_every=6, max_steps=14, extend=True)) == 0
    assert "finished at step 14, total time since step 12 0:" in capsys.readouterr().out


def unfinish(run: Path) -> None:
    """Take away the last checkpoint: the run was killed just before it was renamed."""
    for file in (run / "step_00000012").iterdir():
        file.unlink()
    (run / "step_00000012").rmdir()


def test_log_lines_after_the_checkpoint_are_written_again_whether_partial_or_complete(finished):
    run, words = finished
    expected = outcome(run)
    unfinish(run)
    for log in (run / "metrics.jsonl", run / "samples.jsonl"):
        log.write_bytes(log.read_bytes() + b'{"step": 13, "train_lo')
    assert command(*words) == 0
    assert outcome(run)["metrics"] == expected["metrics"]
    assert outcome(run)["samples"] == expected["samples"]
    assert (
        last_checkpoint(run).items() <= {Path(k).name: v for k, v in expected["tensors"].items() if "12/" in k}.items()
    )


def test_leftovers_of_a_kill_are_deleted_and_a_checkpoint_about_to_be_replaced_is_restored(finished):
    run, words = finished
    before = tree(run)
    for name in (".config.toml.4242.tmp", ".tokenizer.json.4242.tmp"):
        (run / name).write_text("half")
    for name in (".step_00000012.partial", ".step_00000004.deleted"):
        (run / name).mkdir()
        (run / name / "model.safetensors").write_text("half")
    (run / "step_00000012").rename(run / ".step_00000012.replaced")
    assert command(*words) == 0
    assert tree(run) == before
    assert {path.name for path in run.glob(".*")} == {".lock"}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "manifest.json"])
def test_if_the_newest_checkpoint_is_damaged_the_run_says_so_and_resumes_from_the_one_before(finished, capsys, name):
    run, words = finished
    expected = outcome(run)
    flip(run / "step_00000012" / name, at=-30)
    capsys.readouterr()
    assert command(*words) == 0
    said = capsys.readouterr().out
    assert re.search(rf"note: .*step_00000012: damaged checkpoint, {name}.*resuming from step_00000008", said)
    assert outcome(run) == expected


def test_if_every_checkpoint_is_damaged_nothing_starts_from_scratch(finished, capsys):
    run, words = finished
    for folder in run.glob("step_*"):
        flip(folder / "model.safetensors")
    before = tree(run)
    assert "no other checkpoint is left" in refusal(capsys, *words)
    assert {k: v for k, v in tree(run).items() if k != ".lock"} == {k: v for k, v in before.items() if k != ".lock"}


@pytest.mark.parametrize("what", ["generate", "eval"])
def test_a_damaged_checkpoint_that_was_named_is_refused(finished, capsys, what):
    run, _ = finished
    flip(run / "step_00000012" / "model.safetensors")
    assert "model.safetensors is not what was saved" in refusal(capsys, what, "--checkpoint", run / "step_00000012")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": 32}, ["hidden_size 16 -> 32", "head_dim 8 -> 16"]),
        ({"learning_rate": 0.02, "seed": 5}, ["learning_rate 0.01 -> 0.02", "seed 0 -> 5"]),
        ({"max_steps": 20}, ["max_steps 12 -> 20", "--extend"]),
        ({"windows": "document"}, ["windows auto -> document"]),
        ({"max_steps": 8, "extend": True}, ["max_steps 12 -> 8"]),
    ],
    ids=str,
)
def test_another_configuration_in_the_same_directory_is_refused_and_nothing_is_touched(
    finished, text, capsys, changes, named
):
    run, _ = finished
    before = tree(run)
    message = refusal(capsys, *train_words(text, run, dropout=0.1, **{"sample_every": 6, **changes}))
    assert all(part in message for part in named)
    assert tree(run) == before


def test_other_text_at_the_same_path_is_refused_and_nothing_is_touched(finished, text, capsys):
    run, words = finished
    before = tree(run)
    write_text(text, seed=1)
    assert "other data" in refusal(capsys, *words)
    assert tree(run) == before


def test_the_same_text_at_another_path_is_the_same_run(finished, text):
    run, words = finished
    before = digest(run / "metrics.jsonl")
    moved = text.rename(text.with_name("moved.txt"))
    assert command(*[moved if word == str(text) else word for word in words]) == 0
    assert digest(run / "metrics.jsonl") == before


def test_extend_raises_max_steps_and_keeps_what_was_learned(finished, text):
    run, _ = finished
    before = rows(run)
    assert command(*train_words(text, run, dropout=0.1, sample_every=6, max_steps=20, extend=True)) == 0
    assert rows(run)[: len(before)] == before
    assert rows(run)[-1]["step"] == 20
    assert (run / "step_00000020").exists()


def test_how_a_run_is_computed_may_change_from_start_to_start(finished, text):
    run, _ = finished
    expected = last_checkpoint(run)
    unfinish(run)
    changed = {"log_every": 3, "save_every": 12, "eval_every": 12, "sample_every": 0, "eval_sequences": 0}
    assert command(*train_words(text, run, dropout=0.1, **changed)) == 0
    assert last_checkpoint(run) == expected


def test_another_number_of_threads_is_noted_as_not_bitwise_reproducible(finished, text, capsys):
    run, _ = finished
    capsys.readouterr()
    assert command(*train_words(text, run, dropout=0.1, sample_every=6, threads=2)) == 0
    assert "note: threads was 1, is 2 now: not bitwise reproducible from here on" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="cuda is here")
def test_if_the_device_of_a_run_is_missing_the_message_names_one_that_works(text, tmp_path, capsys):
    assert command(*train_words(text, tmp_path / "run", device="auto")) == 0
    config = tmp_path / "run" / "config.toml"
    config.write_text(config.read_text().replace('device = "cpu"', 'device = "cuda"'))  # as if it had begun on a GPU
    message = refusal(capsys, *train_words(text, tmp_path / "run", device="auto"))
    assert "--device cuda cannot be used here" in message
    (named,) = re.findall(r"use --device (\w+)$", message.strip())
    assert command(*train_words(text, tmp_path / "run", device=named)) == 0
    assert "note: device was cuda, is" in capsys.readouterr().out


def test_what_auto_chose_is_chosen_again(text, tmp_path, capsys):
    assert command(*train_words(text, tmp_path / "run", threads=1)) == 0
    capsys.readouterr()
    again = train_words(text, tmp_path / "run", threads=0, device="auto", precision="auto")
    assert command(*again) == 0
    assert "note:" not in capsys.readouterr().out


def ignore(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)


def test_a_run_started_with_nohup_is_not_stopped_by_a_closed_terminal(text, tmp_path):
    run, words = tmp_path / "run", train_words(text, tmp_path / "run", max_steps=100, save_every=50, eval_every=50)
    assert disturb(start(words, tmp_path, ignore, signal.SIGHUP), signal.SIGHUP, lambda: lines(run) >= 5) == 0
    assert training_rows(run)[-1]["step"] == 100


def print_to(terminal: str, ignored: bool) -> None:
    """Let this process print to a terminal; `ignored`: as under nohup."""
    os.dup2(os.open(terminal, os.O_WRONLY | os.O_NOCTTY), 1)
    os.environ["TERM"] = "xterm"
    if ignored:
        ignore(signal.SIGHUP)


@pytest.mark.parametrize("ignored", [False, True], ids=["SIGHUP", "nohup"])
def test_when_its_terminal_closes_a_run_saves_and_ends_or_continues_where_that_is_ignored(text, tmp_path, ignored):
    run, words = tmp_path / "run", train_words(text, tmp_path / "run", max_steps=150, save_every=150, eval_every=150)
    ours, theirs = os.openpty()

    def close_terminal() -> bool:
        while select.select([ours], [], [], 0)[0]:
            os.read(ours, 1 << 16)
        if lines(run) < 5:
            return False
        os.close(theirs)
        os.close(ours)
        return True

    process = start(words, tmp_path, print_to, os.ttyname(theirs), ignored)
    code = disturb(process, signal.SIGHUP, close_terminal)
    assert code == (0 if ignored else 129)
    assert (tmp_path / "err").read_text() == ""
    assert (run / "step_00000150").exists() == ignored
    assert len(list(run.glob("step_*"))) == 1


def save_at_every_step() -> None:
    """Let it seem as if every step took a quarter of an hour."""
    intervals.SAVE_SECONDS = 0


def save_at_every_step_and_end(place: tuple[str, str], step: int) -> None:
    save_at_every_step()
    end_at(place, step)


def test_checkpoints_saved_by_the_clock_change_neither_results_nor_logs(reported, text, tmp_path):
    """Also where a run is killed after such a checkpoint, and resumes from it."""
    options = {**REPORTS, "save_every": "auto", "keep_last": 0}
    run, words = tmp_path / "run", train_words(text, tmp_path / "run", **options)
    assert ended(start(words, tmp_path, save_at_every_step_and_end, ("after", "save"), 7)) == 9
    assert RunDirectory(run).steps() == [1, 2, 3, 4, 5, 6, 7]
    assert ended(start(words, tmp_path, save_at_every_step)) == 0
    assert RunDirectory(run).steps() == list(range(1, 13))
    found = outcome(run)
    assert {name: found[name] for name in ("metrics", "samples", "best")} == {
        name: reported[name] for name in ("metrics", "samples", "best")
    }
    assert set(last_checkpoint(run).values()) <= set(reported["tensors"].values())


def test_saves_add_no_lines_to_the_log(text, tmp_path):
    assert command(*train_words(text, tmp_path / "run", save_every=3, log_every=5, eval_every=12)) == 0
    assert [row["step"] for row in training_rows(tmp_path / "run")] == [1, 5, 10, 12]
