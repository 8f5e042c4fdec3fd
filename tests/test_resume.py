"""A run that is killed, stopped or damaged, and started again with the same command, ends as if nothing had been."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
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
    tree,
    write_text,
)
from runs import text as text

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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_stopped_run_saves_first_and_goes_on_to_the_same_end(text, tmp_path, number, code):
    options = {"dropout": 0.2, "max_steps": 200, "save_every": 50, "eval_every": 50, "log_every": 5}
    expected = undisturbed(text, tmp_path, **options)
    run, words = tmp_path / "run", train_words(text, tmp_path / "run", **options)
    assert disturb(start(words, tmp_path), number, lambda: lines(run) >= 5) == code
    said, error = (tmp_path / "out").read_text(), (tmp_path / "err").read_text()
    (step,) = re.findall(r"stopped at step (\d+), and saved", said)
    assert (run / f"step_{int(step):08d}" / "manifest.json").exists()
    assert "Traceback" not in error
    assert ended(start(words, tmp_path)) == 0
    assert f"going on from step {step}" in (tmp_path / "out").read_text()
    assert rows(run) == rows(expected)
    assert last_checkpoint(run) == last_checkpoint(expected)


@pytest.fixture
def finished(text, tmp_path) -> tuple[Path, list[str]]:
    """A finished run, and the command that made it."""
    words = train_words(text, tmp_path / "run", dropout=0.1, sample_every=6)
    assert command(*words) == 0
    return tmp_path / "run", words


def test_the_same_command_on_a_finished_run_changes_nothing(finished):
    run, words = finished
    before = tree(run)
    assert command(*words) == 0
    assert tree(run) == before


def unfinish(run: Path) -> None:
    """Take away the last checkpoint: the run was killed just before it was renamed."""
    for file in (run / "step_00000012").iterdir():
        file.unlink()
    (run / "step_00000012").rmdir()


def test_lines_behind_the_checkpoint_torn_or_whole_are_written_anew(finished):
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


def test_what_a_kill_left_is_cleared_away_and_a_checkpoint_that_was_to_be_replaced_comes_back(finished):
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
def test_behind_a_damaged_newest_checkpoint_the_run_says_so_and_goes_on_from_the_one_before(finished, capsys, name):
    run, words = finished
    expected = outcome(run)
    flip(run / "step_00000012" / name, at=-30)
    capsys.readouterr()
    assert command(*words) == 0
    said = capsys.readouterr().out
    assert re.search(rf"note: .*step_00000012: damaged checkpoint, {name}.*going on from step_00000008", said)
    assert outcome(run) == expected


def test_where_every_checkpoint_is_damaged_nothing_is_begun_anew_unasked(finished, capsys):
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


def test_another_number_of_threads_is_told_to_end_bit_exactness(finished, text, capsys):
    run, _ = finished
    capsys.readouterr()
    assert command(*train_words(text, run, dropout=0.1, sample_every=6, threads=2)) == 0
    assert "note: threads was 1, is 2 now: from here on not bitwise reproducible" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="cuda is here")
def test_where_the_device_of_a_run_is_gone_one_that_is_here_is_named_and_works(text, tmp_path, capsys):
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
