"""Ctrl-C ends the command immediately and without a traceback, from llamita's first line on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs import cache, command, ended, start, text, train_words

fixtures = (cache, text)
ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
SITECUSTOMIZE = """
import os, signal, sys
def hook(event, arguments):
    if event == "import" and arguments[0] == {module!r}:
        print("reached", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        if {deaf}:
            raise ImportError("what a library makes of an interruption")
sys.addaudithook(hook)
"""


def interrupted_at_import(module: str, folder: Path, *words: str, deaf: bool = False, **options):
    """Run Python with these words; while it begins to import `module`, Ctrl-C comes."""
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE.format(module=module, deaf=deaf))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}
    before = options.pop("before", lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
        stdin=subprocess.DEVNULL, preexec_fn=before, **options,
    )  # fmt: skip
    assert "reached" in done.stderr
    return done


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("llamita.cli.main", ["train"]),
        ("cyclopts", ["generate"]),
        ("rich.console", ["--help"]),
        ("llamita.parallel", ["train"]),
        ("numpy", ["prepare"]),
        ("torch", ["train"]),
        ("torch", ["generate"]),
        ("torch.nn", ["eval"]),
        (
            "llamita.tokenizer",
            ["tokenizer", "train", "--data", "text.txt", "--output_dir", "tok", "--vocab_size", "300"],
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("deaf", [False, True], ids=["", "swallowed"])
def test_ctrl_c_during_an_import_ends_the_command_by_the_signal(tmp_path, text, module, words, deaf):
    done = interrupted_at_import(module, tmp_path, "-m", "llamita", *words, deaf=deaf)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == "reached\n"


def test_the_installed_script_ends_likewise(tmp_path):
    script = tmp_path / "llamita"
    script.write_text("import sys\nfrom llamita.cli.main import main\nsys.exit(main())\n")
    done = interrupted_at_import("cyclopts", tmp_path, str(script), "train")
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "reached\n")


def test_a_process_of_a_run_with_several_ends_likewise(tmp_path):
    done = interrupted_at_import("torch", tmp_path, "-m", "llamita.train.process")
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "reached\n")


def test_an_interrupt_that_was_inherited_as_ignored_stays_ignored(tmp_path):
    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    done = interrupted_at_import("cyclopts", tmp_path, "-m", "llamita", "--version", before=ignore)
    assert (done.returncode, done.stderr) == (0, "reached\n")


@pytest.mark.parametrize("modules", ["llamita", "llamita.cli.main", "llamita.config, llamita.cli.train"])
def test_a_program_that_imports_llamita_keeps_its_own_handling_of_ctrl_c(modules):
    code = f"import signal, {modules}; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def wait_without_patience() -> None:
    """A pipe that stays open; the note about waiting comes immediately."""
    import llamita.cli.generate

    llamita.cli.generate.PATIENCE = 0.0
    reading, _ = os.pipe()
    sys.stdin = os.fdopen(reading, "r")


def test_ctrl_c_ends_the_wait_for_a_pipe(text, tmp_path):
    assert command(*train_words(text, tmp_path / "run", max_steps=1)) == 0
    process = start(["generate", "--checkpoint", "run"], tmp_path, wait_without_patience)
    while process.is_alive() and "waiting for the prompt" not in _read(tmp_path / "err"):
        process.join(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    assert ended(process) == 130
    assert "Traceback" not in _read(tmp_path / "err")


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
