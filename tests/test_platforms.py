"""What must hold on Linux, macOS and Windows alike, as far as one of them can show it."""

import ast
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import TINY, cache, flags, write_text

from llamita.file_lock import file_lock
from llamita.files import default_cache

fixtures = (cache,)
ROOT = Path(__file__).resolve().parents[1]
WINDOWS = Path(__file__).parent / "windows"  # what makes a Python process obey the rules of Windows
FILES = sorted((ROOT / "llamita").rglob("*.py"))
COMPILED = str(default_cache())  # shared by all tests, as each would compile for seconds
OF_ONE_SYSTEM = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "select", "msvcrt", "winreg", "_winapi"}
COMMANDS = """
import sys
from llamita.cli.main import main
for words in {commands!r}:
    sys.argv = ["llamita", *words]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, (words, stop.code)
"""
HOLD = """
import sys
from pathlib import Path
from llamita.file_lock import file_lock
from llamita.files import default_cache
with file_lock(Path(sys.argv[1]), wait=True):
    print("held", flush=True)
    sys.stdin.read()
"""
TRY = """
import sys
from pathlib import Path
from llamita.file_lock import file_lock
from llamita.files import default_cache
try:
    with file_lock(Path(sys.argv[1])):
        print("free")
except BlockingIOError:
    print("held")
"""
GENERATE = ["generate", "--checkpoint", "run", "--max_new_tokens", "5"]


def environment(*folders: Path, **variables: str) -> dict[str, str]:
    """This process's environment, with `folders` on the path of Python, and UTF-8 nowhere by default."""
    path = os.pathsep.join(map(str, (*folders, ROOT)))
    encodings = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "utf-8"}
    return {**os.environ, "PYTHONPATH": path, "LLAMITA_CACHE": COMPILED, **encodings, **variables}


def run(commands: list[list[str]], env: dict[str, str], piped: bytes = b"") -> bytes:
    """Run llamita commands in one new process, whose standard input is a pipe -> its output; none may fail."""
    words = [sys.executable, "-c", COMMANDS.format(commands=commands)]
    done = subprocess.run(words, env=env, input=piped, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stderr
    return done.stdout


def tiny_train(text: Path, **options: object) -> list[str]:
    short = {"max_steps": 4, "save_every": 2, "eval_every": 2, "sample_every": 2, "output_dir": "run"}
    return ["train", *flags(data=text, **{**TINY, **short, **options})]


def test_training_resuming_and_generation_obey_the_rules_of_windows(tmp_path):
    """Modules of POSIX cannot be imported; nothing is renamed over something else, or while it is open."""
    text, env = write_text(tmp_path / "text.txt"), environment(WINDOWS)
    (tmp_path / "empty").mkdir()
    prepare = ["prepare", *flags(data=text, output_dir="empty", tokenizer="char")]
    run([prepare, tiny_train(text)], env)
    shutil.rmtree(tmp_path / "run" / "step_00000004")
    run([tiny_train(text)], env)
    assert (tmp_path / "run" / "step_00000004").exists()
    assert run([GENERATE], env, b"the hill\r\n").startswith(b"the hill")


BROKEN = {
    "import fcntl": "ModuleNotFoundError",
    "import resource": "ModuleNotFoundError",
    "Path('file').rename('other')": "FileExistsError",
    "Path('folder').rename('empty')": "FileExistsError",
    "Path('folder').replace('empty')": "FileExistsError",
    "stream = open('folder/file'); Path('folder').rename('new')": "PermissionError",
}


@pytest.mark.skipif(sys.platform != "linux", reason="the rules are enforced where Linux lists the open files")
@pytest.mark.parametrize("code", [*BROKEN, "Path('file').replace('other')", "Path('folder').rename('new')"])
def test_what_breaks_the_rules_of_windows_fails_there(tmp_path, code):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").mkdir()
    for name in ("file", "other", "folder/file"):
        (tmp_path / name).touch()
    words = [sys.executable, "-c", f"from pathlib import Path; {code}"]
    error = subprocess.run(words, env=environment(WINDOWS), capture_output=True, text=True).stderr
    assert error.strip().rpartition("\n")[2].partition(":")[0] == BROKEN.get(code, "")


ENCODINGS = ["cp1252", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ascii", "cp437", "utf-8"))]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_console_is_asked_for_a_character_that_it_does_not_have(tmp_path, encoding):
    """Help, and what is printed about a text of characters from everywhere: the model writes them, too."""
    (tmp_path / "text.txt").write_text("é日🙂 łąß " * 300, encoding="utf-8", newline="")
    helps = [["--help"], *([name, "--help"] for name in ("train", "eval", "generate", "prepare"))]
    commands = [*helps, ["presets"], tiny_train(tmp_path / "text.txt"), ["eval", "--checkpoint", "run"], GENERATE]
    out = run(commands, environment(PYTHONIOENCODING=encoding), "é日🙂".encode())
    assert "é日🙂".encode(encoding, "replace") in out


def test_nor_is_it_by_the_processes_of_a_run(tmp_path):
    (tmp_path / "text.txt").write_text("é日🙂 łąß " * 300, encoding="utf-8", newline="")
    out = run([tiny_train(tmp_path / "text.txt", world_size=2)], environment(PYTHONIOENCODING="ascii"))
    assert b"sample at step 4:" in out


@pytest.fixture(params=["this system", "Windows"])
def env(request) -> dict[str, str]:
    return environment(*([WINDOWS] if request.param == "Windows" else []))


def holder(path: Path, env: dict[str, str]) -> "subprocess.Popen[bytes]":
    """A process that waits for the lock, says so, and holds it as long as its standard input is open."""
    words = [sys.executable, "-c", HOLD, str(path)]
    return subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def attempt(path: Path, env: dict[str, str]) -> str:
    words = [sys.executable, "-c", TRY, str(path)]
    return subprocess.run(words, env=env, capture_output=True, text=True).stdout.strip()


def said(process: "subprocess.Popen[bytes]") -> bytes:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("end", [signal.SIGKILL, None], ids=["killed", "released"])
def test_a_lock_is_held_by_one_process_until_it_ends(tmp_path, env, end):
    path = tmp_path / "lock"
    with holder(path, env) as first:
        assert said(first) == b"held"
        assert attempt(path, env) == "held"
        with holder(path, env) as second:
            time.sleep(0.3)
            assert second.poll() is None
            first.kill() if end else first.communicate()
            assert said(second) == b"held"
            assert attempt(path, env) == "held"
            second.communicate()
    assert attempt(path, env) == "free"


def test_a_lock_is_released_by_an_error_and_its_file_stays(tmp_path):
    with pytest.raises(KeyError), file_lock(tmp_path / "lock"):
        raise KeyError
    with file_lock(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()


@functools.cache
def parsed() -> dict[str, ast.Module]:
    """The syntax trees of the sources, by file."""
    return {file.relative_to(ROOT).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in FILES}


def calls(*names: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a function or method of one of these names, with the place where it stands."""
    for file, tree in parsed().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called in names:
                    yield f"{file}:{node.lineno}", node


def given(call: ast.Call) -> set[str]:
    return {keyword.arg for keyword in call.keywords if keyword.arg}


def mode(call: ast.Call) -> str:
    """The mode of `open(path, mode)` or `path.open(mode)`."""
    position = 1 if isinstance(call.func, ast.Name) else 0
    modes = [k.value for k in call.keywords if k.arg == "mode"] or call.args[position : position + 1]
    return str(modes[0].value) if modes and isinstance(modes[0], ast.Constant) else "r"


def owner(call: ast.Call) -> str:
    """What the function belongs to: `os` of `os.open`, `Sweep` of `Sweep.open`; empty for other expressions."""
    return getattr(call.func.value, "id", "") if isinstance(call.func, ast.Attribute) else ""


def opens_no_text(call: ast.Call) -> bool:
    """Whether it is a function of `os` or of a class."""
    return owner(call) == "os" or owner(call)[:1].isupper()


def test_text_files_are_read_and_written_in_a_named_encoding_and_written_with_named_newlines():
    found = [place for place, call in calls("read_text") if "encoding" not in given(call)]
    found += [place for place, call in calls("write_text") if not {"encoding", "newline"} <= given(call)]
    for place, call in calls("open", "fdopen"):
        needed = {"encoding"} if mode(call) == "r" else {"encoding", "newline"}
        if "b" not in mode(call) and not opens_no_text(call) and not needed <= given(call):
            found.append(place)
    assert found == []
    assert len(list(calls("open"))) > 5


def test_texts_to_train_on_are_read_with_the_newlines_they_have():
    exact = [place for place, call in calls("open") if "corpus" in place or "tokenizer/documents" in place]
    inexact = [p for p, c in calls("open") if p in exact and "b" not in mode(c) and "newline" not in given(c)]
    assert exact
    assert inexact == []


def test_files_take_the_place_of_others_by_replace_alone():
    """What is renamed is a folder; the rules of Windows, above, see to it that none is at its place."""
    assert [place for place, call in calls("rename", "renames") if owner(call) == "os"] == []
    folders = {"llamita/data/publishing.py", "llamita/train/checkpoint.py", "llamita/train/run_directory.py"}
    assert {place.partition(":")[0] for place, _ in calls("rename")} <= folders


def test_paths_are_joined_by_pathlib():
    found = []
    for place, call in calls("Path", "open", "joinpath", "with_name"):
        for argument in call.args:
            parts = ast.walk(argument) if isinstance(argument, ast.JoinedStr | ast.BinOp) else ()
            if any(isinstance(p, ast.Constant) and isinstance(p.value, str) and "/" in p.value for p in parts):
                found.append(place)
    assert found == []
    assert [place for place, call in calls("split", "rsplit", "partition", "rpartition") if _by_slash(call)] == []


def _by_slash(call: ast.Call) -> bool:
    return any(isinstance(argument, ast.Constant) and argument.value == "/" for argument in call.args)


def test_modules_of_one_system_are_imported_within_a_function():
    for file, tree in parsed().items():
        for node in tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not OF_ONE_SYSTEM & set(names), f"{file}:{node.lineno}"
