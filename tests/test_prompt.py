"""Where `llamita generate` has its prompt from when none is given: a terminal, a pipe, or nowhere."""

import os
import sys
import threading
import time
from pathlib import Path

import pytest
from runs import cache, command, ended, start, text, train_words

fixtures = (cache, text)
GREEDY = ["--temperature", "0", "--max_tokens", "4", "--checkpoint", "run"]
QUESTION = "prompt (empty: a new document): "
CTRL_C, CTRL_D = b"\x03", b"\x04"


@pytest.fixture
def run(text, tmp_path):
    assert command(*train_words(text, tmp_path / "run", max_steps=1)) == 0
    return tmp_path / "run"


def written(capsys, prompt: str) -> str:
    """What the command writes when it is given the prompt as an argument."""
    capsys.readouterr()
    assert command("generate", prompt, *GREEDY) == 0
    return capsys.readouterr().out


def sit_at(terminal: str) -> None:
    """Make a terminal this process's own, so that its Ctrl-C comes here, and read from it."""
    os.setsid()
    sys.stdin = os.fdopen(os.open(terminal, os.O_RDWR), "r")


def read_from(path: str) -> None:
    sys.stdin = open(path, encoding="utf-8")  # noqa: SIM115


def read_from_someone_slow(pieces: list[bytes], patience: float = 5.0) -> None:
    """A pipe into which someone writes piece by piece, long after the user was told about the wait."""
    import llamita.cli.generate

    llamita.cli.generate.PATIENCE = patience
    reading, writing = os.pipe()
    sys.stdin = os.fdopen(reading, "r")

    def write() -> None:
        for piece in pieces:
            time.sleep(0.1)
            os.write(writing, piece)
        os.close(writing)

    threading.Thread(target=write).start()


def at_a_terminal(folder: Path, typed: bytes) -> tuple[int, str, str]:
    """Type when asked for a prompt -> exit code, standard output and error."""
    ours, theirs = pytest.importorskip("pty", reason="terminals of POSIX").openpty()
    try:
        process = start(["generate", *GREEDY], folder, sit_at, os.ttyname(theirs))
        while process.is_alive() and QUESTION not in (folder / "err").read_text():
            time.sleep(0.01)
        os.write(ours, typed)
        for _ in range(10 if typed == CTRL_C else 0):  # lost where it came just before the process began to read
            process.join(5)
            if process.is_alive():
                os.write(ours, typed)
        code = ended(process)
    finally:
        os.close(theirs)
        os.close(ours)
    return code, (folder / "out").read_text(), (folder / "err").read_text()


@pytest.mark.parametrize("lines", [["the llama"], [""], ["the sun", "", "the llama"]])
def test_on_a_terminal_it_asks_for_prompts_until_ctrl_d(run, tmp_path, capsys, lines):
    (tmp_path / "err").touch()
    typed = "".join(f"{line}\n" for line in lines).encode() + CTRL_D
    code, out, error = at_a_terminal(tmp_path, typed)
    assert (code, error) == (0, QUESTION * (len(lines) + 1) + "\n")
    assert out == "".join(written(capsys, line) for line in lines)


def test_after_a_prompt_that_cannot_be_encoded_it_asks_again(run, tmp_path, capsys):
    (tmp_path / "err").touch()
    code, out, error = at_a_terminal(tmp_path, b"the ZEBRA\nthe\n" + CTRL_D)
    assert code == 0
    assert error.count(QUESTION) == 3
    assert "llamita: the prompt has characters that the model never saw: 'A' 'B' 'E'" in error
    assert out == written(capsys, "the")


@pytest.mark.parametrize(("typed", "code"), [(CTRL_D, 0), (CTRL_C, 130)])
def test_when_it_asks_ctrl_c_and_ctrl_d_leave_without_a_traceback(run, tmp_path, typed, code):
    (tmp_path / "err").touch()
    assert at_a_terminal(tmp_path, typed) == (code, "", QUESTION + "\n")


@pytest.mark.parametrize(
    ("piped", "prompt"), [("the llama\n", "the llama"), ("the\n\nllama", "the\n\nllama"), ("", ""), ("\n", "")]
)
def test_what_comes_through_a_pipe_is_the_prompt(tmp_path, capsys, piped, prompt):
    (tmp_path / "text.txt").write_text("the llama\n\nran.<|endoftext|>" * 50)
    assert command(*train_words(tmp_path / "text.txt", tmp_path / "run", max_steps=1)) == 0
    (tmp_path / "piped").write_text(piped)
    assert ended(start(["generate", *GREEDY], tmp_path, read_from, str(tmp_path / "piped"))) == 0
    assert (tmp_path / "err").read_text() == ""
    assert (tmp_path / "out").read_text() == written(capsys, prompt)


def test_an_argument_wins_over_a_pipe(run, tmp_path, capsys):
    (tmp_path / "piped").write_text("the sun")
    assert ended(start(["generate", "the hill", *GREEDY], tmp_path, read_from, str(tmp_path / "piped"))) == 0
    assert (tmp_path / "out").read_text() == written(capsys, "the hill")


def test_a_pipe_is_read_to_its_end_however_late_it_begins(run, tmp_path, capsys):
    assert ended(start(["generate", *GREEDY], tmp_path, read_from_someone_slow, [b"the lla", b"ma\n"], 0.0)) == 0
    assert (tmp_path / "err").read_text() == "note: waiting for the prompt from standard input; Ctrl-C ends\n"
    assert (tmp_path / "out").read_text() == written(capsys, "the llama")


def test_a_prompt_that_comes_in_pieces_is_read_to_its_end(run, tmp_path, capsys):
    pieces = [b"the lla", b"ma", b"\r\n"]
    assert ended(start(["generate", *GREEDY], tmp_path, read_from_someone_slow, pieces)) == 0
    assert (tmp_path / "err").read_text() == ""
    assert (tmp_path / "out").read_text() == written(capsys, "the llama")


def test_bytes_in_a_pipe_that_are_no_text_are_refused(run, tmp_path):
    (tmp_path / "piped").write_bytes(b"the \xff llama")
    assert ended(start(["generate", *GREEDY], tmp_path, read_from, str(tmp_path / "piped"))) == 2
    assert (tmp_path / "err").read_text() == ("llamita: standard input is not UTF-8 text, at byte 4: convert it\n")


def close_stdin() -> None:
    sys.stdin = None


def test_without_any_standard_input_a_new_document_is_begun(run, tmp_path, capsys):
    assert ended(start(["generate", *GREEDY], tmp_path, close_stdin)) == 0
    assert (tmp_path / "out").read_text() == written(capsys, "")
