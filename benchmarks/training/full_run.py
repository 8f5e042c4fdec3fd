"""A complete `llamita train`, compared with bare steps: what do evaluation, samples and checkpoints cost?"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from common.command import UsageError
from common.made_up_text import DOCUMENTS, VOCABULARIES, made_up_text
from training.results import FullRun
from training.shapes import Shape, Task
from training.worker_process import Worker, closing_all, environment, start, write_inputs

SIZES = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "intermediate_size", "max_seq_len")


@dataclass(frozen=True)
class FullRunSetting:
    """The length of the run, and the intervals of evaluations, samples and checkpoints."""

    max_steps: int = 400
    every: int = 100
    """Steps between evaluations, samples and checkpoints."""
    eval_sequences: int | None = None
    """Windows per evaluation; 0: all; None: llamita's default."""
    sample_count: int | None = None
    """Samples per evaluation; None: llamita's default."""
    measurements: int = 10
    """Of bare steps, before and after the run."""
    threads: int = 0
    documents: int = DOCUMENTS

    def check(self, shape: Shape) -> None:
        """Raise `UsageError` if this shape cannot be run this way."""
        for name, least in {"max_steps": 1, "every": 1, "sample_count": 1, "eval_sequences": 0}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name} is {value}, but must be at least {least}")
        if not VOCABULARIES[0] <= shape.vocab_size <= VOCABULARIES[1]:
            raise UsageError(
                f"--end_to_end: the generated text does not support a vocabulary of {shape.vocab_size:,}: "
                "list another shape first"
            )


def measure_full_run(shape: Shape, setting: FullRunSetting) -> FullRun:
    """One run of the command at this shape, on generated text, and bare steps before and after it."""
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as name, closing_all(workers):
        folder = Path(name)
        _prepare(shape, setting, folder)
        # A shared cache: the worker compiles the kernels, and the command loads them.
        task = Task("llamita", shape, folder, cache=folder / "cache", threads=setting.threads)
        write_inputs(task)
        start(workers, "llamita", task)
        before = _bare_steps(workers["llamita"], setting)
        started = time.time()
        _run(*_train_words(shape, setting), folder=folder)
        ended = time.time()
        bare = statistics.median(before + _bare_steps(workers["llamita"], setting))
        _require_same_model(shape, folder / "run" / "config.toml")
        first = json.loads((folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    training = ended - seconds_since_1970(first["timestamp"])
    return FullRun(setting.max_steps, setting.every, shape.tokens, bare, ended - started, training)


def seconds_since_1970(timestamp: str | float) -> float:
    """The time in a line of metrics.jsonl: ISO 8601, or the number that older versions of llamita wrote."""
    return datetime.fromisoformat(timestamp).timestamp() if isinstance(timestamp, str) else timestamp


def _require_same_model(shape: Shape, file: Path) -> None:
    """A smaller vocabulary than requested would make the model faster."""
    model = tomllib.loads(file.read_text(encoding="utf-8"))["model"]
    names = (*SIZES, "vocab_size", "tie_embeddings")
    if wrong := {name: model[name] for name in names if model[name] != getattr(shape, name)}:
        raise AssertionError(f"llamita train built another model: {wrong}")


def _bare_steps(worker: Worker, setting: FullRunSetting) -> list[float]:
    worker.ask("measure")  # warm-up
    return [worker.ask("measure")["seconds"] for _ in range(setting.measurements)]


def _prepare(shape: Shape, setting: FullRunSetting, folder: Path) -> None:
    """Write the text and tokenize it, which is not part of training."""
    (folder / "text.txt").write_text(made_up_text(setting.documents), encoding="utf-8", newline="")
    _run("prepare", *_flags(data="text.txt", vocab_size=shape.vocab_size, output_dir="tokens"), folder=folder)


def _train_words(shape: Shape, setting: FullRunSetting) -> list[str]:
    model: dict[str, Any] = {name: getattr(shape, name) for name in SIZES}
    every = {f"{name}_every": setting.every for name in ("eval", "save", "sample")}
    run = {"data": "tokens", "output_dir": "run", "device": "cpu", "threads": setting.threads}
    length = {name: getattr(setting, name) for name in ("max_steps", "eval_sequences", "sample_count")}
    return ["train", *_flags(**model, **every, **run, **length, batch_size=shape.batch_size), "--no-tie_embeddings"]


def _flags(**options: Any) -> list[str]:
    given = {name: value for name, value in options.items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def _run(*words: str, folder: Path) -> None:
    """Run a llamita command in `folder`; its output is shown if it fails."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "llamita", *words],
        cwd=folder,
        env=environment(None, folder / "cache"),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"llamita {words[0]} failed:\n{done.stderr[-4000:]}")
