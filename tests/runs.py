"""Tiny runs for tests: a text of a few KB, a model of a few thousand weights, twelve steps; and processes to disturb.

A process is forked from a server that has imported llamita and computed nothing, so that a real one, with its own
files, signals and exit code, costs no seconds.
"""

import hashlib
import json
import multiprocessing
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import llamita.train.loop
from llamita.cli.main import main
from llamita.config import RunConfig, field_tables

TINY: dict[str, Any] = {
    "tokenizer": "char",
    "hidden_size": 16,
    "num_layers": 1,
    "num_heads": 2,
    "max_seq_len": 16,
    "batch_size": 4,
    "max_steps": 12,
    "warmup_steps": 2,
    "learning_rate": 1e-2,
    "log_every": 1,
    "eval_every": 4,
    "eval_sequences": 8,
    "save_every": 4,
    "sample_every": 0,
    "sample_count": 2,
    "device": os.environ.get("LLAMITA_TEST_DEVICE", "cpu"),  # as benchmarks/gpu.py sets it
    "precision": "fp32",
    "threads": 1,
}
WORDS = (
    "a",
    "the",
    "little",
    "llama",
    "ran",
    "to",
    "hill",
    "grass",
    "and",
    "ate",
    "it",
    "then",
    "slept",
    "under",
    "sun",
)
CONTROL_CHARACTERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
CLOCK = ("timestamp", "tokens_per_second")

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(
    [
        "llamita.train",
        "llamita.generate",
        "llamita.cli.train",
        "llamita.cli.generate",
        "torch._dynamo",  # a second of imports, which torch puts off to the first step of an optimizer
        "llamita.ops.cpu.adamw",
        "llamita.ops.cpu.global_norm",
        "pytest",  # which every process imports, for the module that its function is in
        "rich._emoji_codes",
    ]
)


def write_text(path: Path, documents: int = 60, seed: int = 0) -> Path:
    """A file of sentences, of which each is a document; the same for the same seed."""
    rng = random.Random(seed)
    sentences = (" ".join(rng.choices(WORDS, k=rng.randint(3, 20))) + "." for _ in range(documents))
    path.write_text("\n<|endoftext|>\n".join(sentences), encoding="utf-8")
    return path


def flags(**options: Any) -> list[str]:
    """`flags(seed=1, extend=True)` -> `["--seed", "1", "--extend"]`."""
    given = {name: value for name, value in options.items() if value is not False}
    return [word for name, value in given.items() for word in (f"--{name}", *([] if value is True else [str(value)]))]


def train_words(data: Path, output_dir: Path, **options: Any) -> list[str]:
    """The command line of a tiny run."""
    return ["train", *flags(data=data, output_dir=output_dir, **{**TINY, **options})]


def tiny_config(data: Path, **options: Any) -> RunConfig:
    """The configuration of a tiny run, for what is tested without the command."""
    tables: dict[str, dict[str, Any]] = {}
    for name, value in {**TINY, "data": str(data), **options}.items():
        tables.setdefault(field_tables()[name], {})[name] = value
    return RunConfig.from_tables(tables)


def command(*words: Any) -> int:
    """Run a llamita command in this process -> its exit code."""
    try:
        main([str(word) for word in words])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def refusal(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    """The one line on standard error with which a command exits with 2."""
    capsys.readouterr()
    assert command(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("llamita: ")
    assert error.count("\n") == 1
    assert error.endswith("\n")
    assert not CONTROL_CHARACTERS.search(error)
    return error


def start(words: list[str], folder: Path, before: Callable[..., None] | None = None, *arguments: Any) -> BaseProcess:
    """A process that runs a command in `folder`, after `before(*arguments)`; it prints to the files out and err."""
    cache = os.environ.get("LLAMITA_CACHE", str(folder / "cache"))
    process = forks.Process(target=_work, args=(words, folder, cache, before, arguments))
    process.start()
    return process


def _work(words: list[str], folder: Path, cache: str, before: Callable[..., None] | None, arguments: Any) -> None:
    os.chdir(folder)
    os.environ["LLAMITA_CACHE"] = cache
    for name, stream in {"out": sys.stdout, "err": sys.stderr}.items():
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), stream.fileno())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a job in the background starts is deaf to Ctrl-C
    if before is not None:
        before(*arguments)
    main(words)


def ended(process: BaseProcess, seconds: float = 60) -> int:
    """Wait for a process -> its exit code, negative for a signal."""
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        pytest.fail(f"a process was still there after {seconds} seconds")
    assert process.exitcode is not None
    return process.exitcode


def disturb(process: BaseProcess, number: int, happened: Callable[[], bool], seconds: float = 60) -> int:
    """Send signal `number` as soon as `happened()`, unless the process ends before -> its exit code."""
    deadline = time.monotonic() + seconds
    while process.is_alive() and not happened() and time.monotonic() < deadline:
        time.sleep(0.0005)
    if process.is_alive() and process.pid:
        os.kill(process.pid, number)
    return ended(process, seconds)


def kill_at_file_operation(number: int, folder: Path) -> None:
    """Kill this process with -9 just before its `number`-th opening, renaming, deleting … of something in `folder`."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event.split(".")[0] in ("open", "os", "shutil") and any(_inside(a, folder) for a in arguments):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _inside(argument: Any, folder: Path) -> bool:
    return isinstance(argument, (str, bytes, os.PathLike)) and os.fsdecode(argument).startswith(str(folder))


def rows(run: Path, log: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """Every line of a log, each of which must be complete, without what the clock says."""
    text = (run / log).read_text(encoding="utf-8") if (run / log).exists() else ""
    assert not text or text.endswith("\n")
    parsed = [json.loads(line) for line in text.split("\n")[:-1]]
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in parsed]


def training_rows(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that training steps wrote."""
    return [row for row in rows(run) if row["train_loss"] is not None]


def evaluation_rows(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that evaluations wrote."""
    return [row for row in rows(run) if row["val_loss"] is not None]


def spy_on_gradients(patch: pytest.MonkeyPatch) -> list[list[Tensor]]:
    """From now on, the gradients of every update before clipping, in the order of the model's parameters."""
    seen: list[list[Tensor]] = []
    clip = llamita.train.loop.clip_grad_norm_

    def spy(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
        parameters = list(parameters)
        seen.append([p.grad.clone() for p in parameters if p.grad is not None])
        return clip(parameters, max_norm)

    patch.setattr(llamita.train.loop, "clip_grad_norm_", spy)
    return seen


def outcome(run: Path) -> dict[str, Any]:
    """All that must not depend on how often a run was disturbed."""
    tensors = {str(file.relative_to(run)): digest(file) for file in sorted(run.glob("step_*/*.safetensors"))}
    best = json.loads((run / "best.json").read_text())
    del best["manifest_sha256"]  # of a manifest with the lengths of logs, and so of what the clock says
    logged = {"metrics": rows(run), "samples": rows(run, "samples.jsonl")}
    return {**logged, "tensors": tensors, "best": best}


def last_checkpoint(run: Path) -> dict[str, str]:
    """The hashes of weights and optimizer state in the newest checkpoint."""
    return {file.name: digest(file) for file in sorted(run.glob("step_*"))[-1].glob("*.safetensors")}


def tree(folder: Path) -> dict[str, str]:
    """The hash of every file in a folder, by path."""
    return {str(file.relative_to(folder)): digest(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def runs_in(folder: Path) -> list[Path]:
    """The run directories in a folder, which has results.tsv, too."""
    return sorted(path for path in folder.iterdir() if path.is_dir())


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def flip(file: Path, at: int = -1) -> None:
    """Change one byte of a file."""
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A test's own cache of prepared tokens, and a folder of its own to stand in."""
    monkeypatch.setenv("LLAMITA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text file of 60 documents."""
    return write_text(tmp_path / "text.txt")


def said(capsys, *words) -> tuple[str, str]:
    """What `llamita generate` prints: on standard output, and on standard error."""
    capsys.readouterr()
    assert command("generate", *words) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err
