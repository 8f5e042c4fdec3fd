"""The line of progress: on terminals of any width, and in a pipe."""

import io
import re
import sys
from contextlib import suppress

import pytest
from rich.console import Console

from llamita.train import Display, display
from llamita.train.display import clock_time


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time that a display sees, in seconds."""
    now = [0.0]
    monkeypatch.setattr(display, "monotonic", lambda: now[0])
    return now


def displayed(width: int, terminal: bool = True) -> tuple[Display, io.StringIO]:
    """A display of this width, and what it wrote."""
    shown, out = Display(), io.StringIO()
    shown.console = Console(
        file=out,
        width=width,
        force_terminal=terminal,
        color_system=None,
        legacy_windows=False,
        soft_wrap=True,
        _environ={"TERM": "xterm"},
    )
    return shown, out


def train(shown: Display, clock: list[float], done: int, total: int, seconds: float = 60.0) -> None:
    """`done` of `total` steps, the last of them after this many seconds."""
    for step, now in ((done // 2, 0.0), (done, seconds)):
        clock[0] = now
        status = f"loss {12.3456:.4f}", f"{1_052_345:,} tok/s"
        shown.progress("training", step, total, status, ("lr 1.25e-03", "MFU 53%"))


def last_line(out: io.StringIO) -> str:
    """What the last drawing of the live line put on the screen."""
    return re.split(r"\r|\n|\x1b\[\d*[A-Z]", out.getvalue().rstrip("\r\n"))[-1].rstrip()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("steps", [100, 20_000, 200_000])
def test_step_loss_throughput_and_time_left_are_shown_whatever_the_width(clock, width, steps):
    shown, out = displayed(width)
    train(shown, clock, steps // 2, steps)
    line = last_line(out)
    assert len(line) < width
    assert f"{steps // 2:,}/{steps:,}  loss 12.3456  1,052,345 tok/s  ETA 2:00" in line


def test_what_else_there_is_to_say_comes_with_the_width(clock):
    lines = {}
    for width in (60, 72, 80, 90, 120):
        shown, out = displayed(width)
        train(shown, clock, 1_000, 2_000)
        lines[width] = last_line(out)
    assert lines[60] == "1,000/2,000  loss 12.3456  1,052,345 tok/s  ETA 2:00"
    assert lines[72] == f"training {lines[60]}"
    assert lines[80] == f"{lines[72]}  lr 1.25e-03"
    assert lines[90].startswith(f"{lines[80]}  MFU 53%")
    assert re.fullmatch(re.escape(f"training {lines[60]}  lr 1.25e-03  MFU 53%") + r" +[━╸╺ ]+", lines[120])


def test_a_pipe_gets_lines_with_the_time_left_and_no_more_than_twenty(clock):
    shown, out = displayed(80, terminal=False)
    for step in range(1, 1001):
        clock[0] = 2.0 * step
        shown.progress("training", step, 1000, (f"loss {1 / step:.4f}", "1,000 tok/s"), ("MFU 1%",))
    lines = out.getvalue().splitlines()
    assert len(lines) == 20
    assert lines[0] == "training 51/1,000  loss 0.0196  1,000 tok/s  ETA 31:38  MFU 1%"
    assert lines[-1].startswith("training 1,000/1,000  loss 0.0010  1,000 tok/s  ETA 0:00")


def test_a_pipe_gets_no_lines_of_tasks_without_a_status(clock):
    shown, out = displayed(80, terminal=False)
    for step in range(1, 101):
        shown.progress("encoding", step, 100)
    assert out.getvalue() == ""


def test_of_a_resumed_run_the_time_left_follows_from_what_was_done_since(clock):
    shown, out = displayed(200)
    for step, now in ((900, 0.0), (910, 10.0)):
        clock[0] = now
        shown.progress("training", step, 1000)
    assert "910/1,000  ETA 1:30" in last_line(out)


def test_times_are_written_as_clocks_do():
    assert [clock_time(s) for s in (0, 0.6, 59.4, 151.2, 3600, 3661, 360_000)] == [
        "0:00", "0:01", "0:59", "2:31", "1:00:00", "1:01:01", "100:00:00"
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_disk_that_is_full_is_not_taken_for_a_terminal_that_is_closed(clock):
    full = open("/dev/full", "w")  # noqa: SIM115  (closing it fails, too)
    shown = Display()
    shown.console = Console(file=full, soft_wrap=True)
    with pytest.raises(OSError, match="No space left"):
        shown.say("x\n" * 10_000)
    with suppress(OSError):
        full.close()
