"""Output that nobody can take any more; text that is printed as it is; command lines that a shell understands."""

import io
import os
import shlex
from pathlib import Path

import pytest
from rich.console import Console
from runs import TINY, cache, command, flags, rows, text
from test_cli import shell

from llamita.console import _quoted_for_cmd, shell_line
from llamita.generate import printable, printable_pieces
from llamita.train import Display, RunDirectory

fixtures = (cache, text)
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
FULL = "llamita: standard output cannot be written (No space left on device)"


def train_line(text: Path, *redirections: str, **options) -> str:
    return shlex.join(["llamita", "train", *flags(data=text, output_dir="run", **{**TINY, **options})]) + " ".join(
        ["", *redirections]
    )


@needs_full
@pytest.mark.parametrize("line", ["llamita --help", "llamita --version", "llamita train --help"])
def test_a_full_disk_is_one_line_and_exit_code_1(tmp_path, line):
    done = shell(f"{line} > /dev/full", tmp_path)
    assert (done.returncode, done.stderr) == (1, f"{FULL}\n")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_a_mistake_keeps_its_exit_code_without_standard_error(tmp_path, redirection):
    if "/dev/full" in redirection and not Path("/dev/full").exists():
        pytest.skip("a device that is always full")
    done = shell(f"llamita train --data nowhere.txt {redirection}", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")


def test_closed_standard_streams_are_no_failure(tmp_path):
    done = shell("llamita --version <&- >&-; llamita --version <&- 2>&-", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1


def errors(done) -> str:
    """Standard error, but for the line of a first start on a machine."""
    return "".join(line for line in done.stderr.splitlines(keepends=True) if not line.startswith("compiling kernels"))


@needs_full
def test_training_continues_without_its_output_on_a_full_disk(text, tmp_path):
    done = shell(train_line(text, "> /dev/full"), tmp_path)
    assert (done.returncode, errors(done)) == (0, f"{FULL}; continuing\n")
    assert rows(tmp_path / "run")[-1]["step"] == 12
    assert RunDirectory(tmp_path / "run").newest_good()


@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&- <&-", "| true"])
def test_training_loses_nothing_without_a_reader(text, tmp_path, redirection):
    done = shell(train_line(text, redirection, sample_every=6), tmp_path)
    assert (done.returncode, errors(done)) == (0, "")
    assert rows(tmp_path / "run")[-1]["step"] == 12
    assert RunDirectory(tmp_path / "run").newest_good()


def test_processes_of_a_run_print_in_the_encoding_of_the_console(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("é日🙂 łąß " * 300, encoding="utf-8", newline="")
    (tmp_path / "größe").mkdir()
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    options = {**TINY, "output_dir": "größe/日", "world_size": 2, "sample_every": 6, "max_steps": 6}
    line = shlex.join(["llamita", "train", *flags(data=tmp_path / "text.txt", **options)])
    done = shell(f"{line} > out.txt", tmp_path)
    assert (done.returncode, errors(done)) == (0, "")
    printed = (tmp_path / "out.txt").read_text(encoding="latin-1")
    assert "sample at step 6" in printed
    assert "größe/?" in printed


PRINTED = [":cat: [bold]b[/bold] [/] :smile:", "a\\[x]", "x" * 300, "  indented", "[link=http://x]y[/link]"]


@pytest.mark.parametrize("line", PRINTED)
def test_a_sample_is_printed_as_it_is(line, capsys):
    display = Display()
    display.say(line)
    assert capsys.readouterr().out == line + "\n"


def test_a_sample_is_printed_as_it_is_on_a_terminal():
    display = Display()
    display.console = Console(
        file=io.StringIO(), force_terminal=True, width=40, highlight=False, soft_wrap=True, emoji=False
    )
    for line in PRINTED:
        display.say(line)
    assert display.console.file.getvalue() == "".join(f"{line}\n" for line in PRINTED)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\r\nb", "a\nb"), ("a\r\r\nb", "a\ufffd\nb"), ("a\rb", "a\ufffdb"), ("\r", "\ufffd"), ("a\n\rb", "a\n\ufffdb")],
)
def test_line_ends_of_windows_are_line_ends_and_other_carriage_returns_are_not(text, shown):
    assert printable(text) == shown
    assert "".join(printable_pieces(text)) == shown  # character by character
    assert "".join(printable_pieces([text[:1], "", text[1:]])) == shown


WORDS = ["my story", "it's", 'a "b"', "$HOME", "a&b", "*", "ümlaut", "a\\b", "", "~", "a\nb", "runs/a-1", "-", "#x"]


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX")
def test_a_shell_splits_a_printed_command_into_its_words(tmp_path):
    assert shlex.split(shell_line("llamita", *WORDS)) == ["llamita", *WORDS]
    printed = shell(f"printf '%s\\0' {shell_line(*WORDS)}", tmp_path).stdout
    assert printed.split("\0")[:-1] == WORDS
    assert shell_line("llamita", "generate", Path("runs/a-1")) == "llamita generate runs/a-1"


def test_a_path_that_looks_like_a_flag_is_printed_as_a_path():
    assert shlex.split(shell_line("llamita", Path("-x"))) == ["llamita", os.path.join(".", "-x")]


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("runs\\a-1", "runs\\a-1"),
        ("my story", '"my story"'),
        ("my story\\", '"my story\\\\"'),
        ("a&b", '"a&b"'),
        ("50%\\", '"50%\\\\"'),
        ("it's", '"it\'s"'),
        ("", '""'),
    ],
)
def test_on_windows_a_word_is_quoted_by_its_rules(word, quoted):
    assert _quoted_for_cmd(word) == quoted


def test_the_next_commands_are_printed_so_that_they_work(text, tmp_path, capsys):
    options = {**TINY, "max_steps": 2, "output_dir": "my story's"}
    assert command("train", *flags(data=text, **options)) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  llamita ")]
    assert [shlex.split(line)[1] for line in lines] == ["generate", "eval"]
    for line in lines:
        words = shlex.split(line)[1:]
        assert command(*words, *(["--prompt", "the"] if words[0] == "generate" else [])) == 0
