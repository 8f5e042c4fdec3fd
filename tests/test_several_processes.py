"""`--world_size 2` and torchrun: real processes, which learn what one learns, and begin and end together."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import cache as cache
from runs import (
    command,
    disturb,
    ended,
    evaluation_rows,
    last_checkpoint,
    outcome,
    refusal,
    rows,
    start,
    text,
    train_words,
    training_rows,
    tree,
    write_text,
)

fixtures = (text,)
SLOW = pytest.mark.slow
TWO = {
    "world_size": 2,
    "max_steps": 60,
    "save_every": 20,
    "eval_every": 20,
    "sample_every": 20,
    "dropout": 0.1,
    "windows": "document",
}
LEARNING = [
    pytest.param({"windows": "stream"}, id="stream", marks=SLOW),
    pytest.param({"windows": "document", "batch_size": 5}, id="document, an odd batch"),
]
STOPS = [
    pytest.param(signal.SIGINT, 130, id="Ctrl-C"),
    pytest.param(signal.SIGTERM, 143, id="SIGTERM", marks=SLOW),
    pytest.param(signal.SIGHUP, 129, id="SIGHUP", marks=SLOW),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of an undisturbed run in two processes, and of what it printed: for tests that only look at it."""
    folder = tmp_path_factory.mktemp("finished")
    words = train_words(write_text(folder / "text.txt"), folder / "run", **TWO)
    assert ended(start(words, folder)) == 0
    return folder


def children(pid: int | None) -> list[int]:
    """The processes that a process started and that are still there."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name_end = (content := status.read_text()).rindex(")")
            state, parent = content[name_end + 2 :].split()[:2]
        except (OSError, ValueError):
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(status.parent.name))
    return sorted(found)


def gone(pids: list[int], seconds: float = 20) -> bool:
    """Whether these processes end soon."""
    deadline = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def lines(run: Path) -> int:
    log = run / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


@pytest.mark.parametrize("options", LEARNING)
def test_two_processes_learn_in_fifty_steps_what_one_learns(text, tmp_path, options):
    options = {"max_steps": 50, "eval_every": 25, "save_every": 50, "learning_rate": 3e-3, **options}
    assert ended(start(train_words(text, tmp_path / "one", **options), tmp_path)) == 0
    assert ended(start(train_words(text, tmp_path / "two", world_size=2, **options), tmp_path)) == 0
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [row["step"] for row in training_rows(tmp_path / "two")] == list(range(1, 51))
    for expected, found in zip(one, two, strict=True):
        assert expected.keys() == found.keys()
        for name in ("train_loss", "val_loss", "bits_per_byte", "lr", "tokens"):
            requested = expected[name] and pytest.approx(expected[name], rel=1e-5)
            assert found[name] == requested, (found["step"], name)


def test_two_processes_say_and_log_everything_once(finished):
    run, said = finished / "run", (finished / "out").read_text()
    assert "2 processes, each cpu" in said
    assert all(said.count(f"step {step}: validation loss") == 1 for step in (0, 20, 40, 60))
    assert (
        said.count("training 60/60") == said.count("finished at step 60, total time ") == said.count("Try next:") == 1
    )
    assert [row["step"] for row in training_rows(run)] == list(range(1, 61))
    assert [row["step"] for row in evaluation_rows(run)] == [0, 20, 40, 60]
    assert (run / "samples.jsonl").read_text().count("\n") == 4
    assert (finished / "err").read_text() == ""


@pytest.mark.slow
def test_killed_again_and_again_a_run_in_two_processes_ends_bit_for_bit_the_same_and_leaves_no_orphan(
    finished, text, tmp_path
):
    run, words = tmp_path / "run", train_words(text, tmp_path / "run", **TWO)
    for happened in (lambda: lines(run) >= 3, lambda: any(run.glob(".step_*")) or lines(run) >= 25):
        process = start(words, tmp_path)
        started: list[int] = []

        def moment(started=started, happened=happened, process=process) -> bool:
            started[:] = children(process.pid) or started
            return happened()

        assert disturb(process, signal.SIGKILL, moment) == -signal.SIGKILL
        assert len(started) == 2
        assert gone(started)
    assert ended(start(words, tmp_path)) == 0
    assert outcome(run) == outcome(finished / "run")


@pytest.mark.parametrize(("number", "code"), STOPS)
def test_a_stopped_run_saves_at_the_same_step_in_all_processes_and_resumes(finished, text, tmp_path, number, code):
    run, words = tmp_path / "run", train_words(text, tmp_path / "run", **TWO)
    assert disturb(start(words, tmp_path), number, lambda: lines(run) >= 2) == code
    (step,) = re.findall(r"stopped at step (\d+), and saved", (tmp_path / "out").read_text())
    assert (run / f"step_{int(step):08d}" / "manifest.json").exists()
    assert (tmp_path / "err").read_text() == ""
    assert ended(start(words, tmp_path)) == 0
    assert rows(run) == rows(finished / "run")
    assert last_checkpoint(run) == last_checkpoint(finished / "run")


def ignore(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)


def test_started_with_nohup_a_run_in_two_processes_is_not_stopped_by_a_closed_terminal(finished, text, tmp_path):
    """Neither by the signal to the process that waits, nor by one to those that train."""
    run, words = tmp_path / "run", train_words(text, tmp_path / "run", **TWO)
    process = start(words, tmp_path, ignore, signal.SIGHUP)

    def moment() -> bool:
        if lines(run) < 2:
            return False
        for child in children(process.pid):
            os.kill(child, signal.SIGHUP)
        return True

    assert disturb(process, signal.SIGHUP, moment) == 0
    assert rows(run) == rows(finished / "run")


@pytest.mark.parametrize("which", [0, pytest.param(1, marks=SLOW)])
def test_where_one_process_is_killed_the_other_ends_too_and_one_line_says_so(text, tmp_path, which):
    run, words = tmp_path / "run", train_words(text, tmp_path / "run", **{**TWO, "max_steps": 100_000})
    process = start(words, tmp_path)
    deadline = time.monotonic() + 60
    while lines(run) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    started = children(process.pid)
    os.kill(started[which], signal.SIGKILL)
    assert ended(process) == 2
    error = (tmp_path / "err").read_text()
    assert re.fullmatch(r"llamita: process \d of 2 was killed \(SIGKILL\).*\n", error), error
    assert gone(started)


def test_a_mistake_that_shows_in_the_processes_is_one_line(text, tmp_path, capfd):
    run = tmp_path / "run"
    assert command(*train_words(text, run)) == 0
    before = tree(run)
    message = refusal_of(capfd, *train_words(text, run, world_size=2, seed=5))
    assert "seed 0 -> 5" in message
    assert tree(run) == before


def refusal_of(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    """As `runs.refusal`, of what processes of their own print, too."""
    capfd.readouterr()
    assert command(*words) == 2
    error = capfd.readouterr().err
    assert re.fullmatch(r"llamita: [^\n]*\n", error), error
    return error


def test_a_diverged_run_in_two_processes_is_one_line(text, tmp_path, capfd):
    words = train_words(text, tmp_path / "run", world_size=2, learning_rate=1e30, grad_clip=0)
    assert "training has diverged" in refusal_of(capfd, *words)


def test_a_batch_smaller_than_the_processes_is_one_line(text, tmp_path, capfd):
    message = refusal_of(capfd, *train_words(text, tmp_path / "run", world_size=2, batch_size=1))
    assert "raise --batch_size or lower --world_size" in message


def test_more_processes_than_sequences_are_refused_before_any_is_started(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("llamita.train.loop.launch", lambda *_: pytest.fail("processes were started"))
    assert "1,000,000 processes" in refusal(capsys, *train_words(text, tmp_path / "run", world_size=1_000_000))
    assert not (tmp_path / "run").exists()


def test_far_more_processes_than_cores_are_refused_before_any_is_started(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("llamita.train.loop.launch", lambda *_: pytest.fail("processes were started"))
    many = {"world_size": 1_000_000, "batch_size": 1_000_000}
    assert "1,000,000 processes on" in refusal(capsys, *train_words(text, tmp_path / "run", **many))
    assert not (tmp_path / "run").exists()


def test_more_processes_than_gpus_are_refused_before_any_is_started(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("llamita.train.loop.launch", lambda *_: pytest.fail("processes were started"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert "each needs a GPU" in refusal(capsys, *train_words(text, tmp_path / "run", world_size=2, device="cuda"))


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"WORLD_SIZE": "2"}, "RANK, MASTER_ADDR, MASTER_PORT are not"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}, "MASTER_PORT is not"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}, "RANK is 2"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "99999"},
            "the highest port is 65535",
        ),
    ],
    ids=str,
)
def test_half_of_what_torchrun_sets_is_one_line(text, tmp_path, monkeypatch, capsys, environment, named):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    message = refusal(capsys, *train_words(text, tmp_path / "run"))
    assert named in message
    assert "start with torchrun" in message
    assert not (tmp_path / "run").exists()


def test_a_rank_without_a_world_size_means_nothing(text, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert command(*train_words(text, tmp_path / "run")) == 0
    assert "Try next" in capsys.readouterr().out


def test_a_run_may_resume_with_another_number_of_processes_and_a_note(finished, text, tmp_path):
    run = shutil.copytree(finished / "run", tmp_path / "run")
    longer = {**TWO, "max_steps": 66, "extend": True, "world_size": 1}
    assert ended(start(train_words(text, run, **longer), tmp_path)) == 0
    assert "note: world_size was 2, is 1 now: not bitwise reproducible from here on" in (tmp_path / "out").read_text()
    assert [row["step"] for row in training_rows(run)] == list(range(1, 67))


def break_in_one(module: str, rank: str) -> str:
    """A sitecustomize that plants a defect in one process."""
    return (
        "import os, sys\n"
        f"if os.environ.get('RANK') == '{rank}' and 'llamita' in ' '.join(sys.orig_argv):\n"
        "    import llamita.train.steps as steps\n"
        "    def broken(*a, **k):\n"
        "        raise ZeroDivisionError('planted')\n"
        f"    import llamita.train.loop as loop\n    loop.{module} = broken\n"
    )


@pytest.mark.parametrize("rank", [pytest.param("0", marks=SLOW), "1"])
def test_a_defect_in_one_process_ends_all_with_its_traceback(text, tmp_path, rank):
    (tmp_path / "plant").mkdir()
    (tmp_path / "plant" / "sitecustomize.py").write_text(break_in_one("next_batch", rank))
    paths = os.pathsep.join([str(tmp_path / "plant"), *sys.path])
    words = [sys.executable, "-m", "llamita", *train_words(text, tmp_path / "run", **TWO)]
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"RuntimeError: process {rank} of 2 failed" in done.stderr
    assert "ZeroDivisionError: planted" in done.stderr
    assert "Connection" not in done.stderr


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "llamita"]
    return subprocess.run([*line, *words], capture_output=True, text=True, timeout=300)


@SLOW
def test_torchrun_does_what_world_size_does_bit_for_bit(text, tmp_path):
    assert ended(start(train_words(text, tmp_path / "own", **TWO), tmp_path)) == 0
    done = torchrun(*train_words(text, tmp_path / "torchrun", **{**TWO, "world_size": 0}))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("training 60/60") == done.stdout.count("Try next:") == 1
    assert outcome(tmp_path / "torchrun") == outcome(tmp_path / "own")


def test_under_torchrun_a_mistake_is_told_once(text, tmp_path):
    assert command(*train_words(text, tmp_path / "run")) == 0
    done = torchrun(*train_words(text, tmp_path / "run", seed=5))
    assert done.returncode != 0
    assert done.stderr.count("llamita: ") == 1
    assert "ConnectionError" not in done.stderr


def test_another_world_size_than_torchruns_is_one_line(text, tmp_path, monkeypatch, capsys):
    torchruns = {"WORLD_SIZE": "4", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in torchruns.items():
        monkeypatch.setenv(name, value)
    message = refusal(capsys, *train_words(text, tmp_path / "run", world_size=2))
    assert "--world_size is 2, but 4 processes were started: leave it out" in message


def test_the_store_of_config_knows_how_many_processes_there_were(finished):
    assert "world_size = 2" in (finished / "run" / "config.toml").read_text()
    manifest = json.loads(next((finished / "run").glob("step_*/manifest.json")).read_text())
    assert manifest["scaler"] is None


@SLOW
def test_a_reader_who_has_seen_enough_ends_all_silently(text, tmp_path):
    words = [sys.executable, "-m", "llamita", *train_words(text, tmp_path / "run", **{**TWO, "max_steps": 100_000})]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 1  # as for one process
    assert process.stderr is not None
    assert process.stderr.read() == ""
