"""`llamita train` as a person starts it, beside bare steps: what do evaluation, samples and checkpoints cost?"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamita.bench.shapes import Shape, Task
from llamita.bench.training_results import WholeRun
from llamita.bench.workers import Worker, closing_all
from llamita.tokenizer import END_OF_TEXT

WORDS = 20_000
DOCUMENTS = 12_000
SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvwz" for vowel in ("a", "e", "i", "o", "u", "ai", "ou")]


@dataclass(frozen=True)
class WholeRunSetting:
    """How long a run, and how often it stops to do something else."""

    steps: int = 400
    every: int = 100
    """Steps between evaluations, samples and checkpoints."""
    turns: int = 10
    """Turns of bare steps before the run, and after it."""
    threads: int = 0
    documents: int = DOCUMENTS
    flags: tuple[str, ...] = ()
    """More of them for `llamita train`."""


def measure_whole_run(shape: Shape, setting: WholeRunSetting) -> WholeRun:
    """One run of the command at this shape, on made-up words, and the bare steps around it."""
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as name, closing_all(workers):
        folder = Path(name)
        _prepare(shape, setting, folder)
        worker = workers["llamita"] = Worker("llamita", Task("llamita", shape, folder, threads=setting.threads))
        worker.facts()
        before = _bare_steps(worker, setting)
        started = time.time()
        _run(*_train_words(shape, setting, folder), folder=folder)
        ended = time.time()
        bare = statistics.median(before + _bare_steps(worker, setting))
        began = json.loads((folder / "run" / "metrics.jsonl").read_text().splitlines()[0])["timestamp"]
    return WholeRun(setting.steps, setting.every, shape.tokens, bare, ended - started, ended - began)


def _bare_steps(worker: Worker, setting: WholeRunSetting) -> list[float]:
    worker.ask("turn")  # that does not count: the machine did something else before
    return [worker.ask("turn")["seconds"] for _ in range(setting.turns)]


def _prepare(shape: Shape, setting: WholeRunSetting, folder: Path) -> None:
    """Text, and its tokens; that a run does it by itself the first time is no matter of training."""
    (folder / "text.txt").write_text(made_up_text(setting.documents), encoding="utf-8")
    _run("prepare", *_flags(data="text.txt", vocab_size=shape.vocab_size, output_dir="tokens"), folder=folder)


def made_up_text(documents: int) -> str:
    """Documents of words as rare as those of a language (Zipf's law), enough for a vocabulary of some 10,000."""
    rng = random.Random(0)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(WORDS)]
    weights = [1 / rank for rank in range(1, WORDS + 1)]
    return f"\n{END_OF_TEXT}\n".join(" ".join(rng.choices(words, weights, k=150)) for _ in range(documents))


def _train_words(shape: Shape, setting: WholeRunSetting, folder: Path) -> list[str]:
    model: dict[str, Any] = {
        name: getattr(shape, name)
        for name in ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "intermediate_size", "max_seq_len")
    }
    every = {f"{name}_every": setting.every for name in ("eval", "save", "sample")}
    run = {"data": "tokens", "output_dir": "run", "device": "cpu", "threads": setting.threads}
    length = {"batch_size": shape.batch_size, "max_steps": setting.steps}
    return ["train", *_flags(**model, **every, **run, **length), "--no-tie_embeddings", *setting.flags]


def _flags(**options: Any) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def _run(*words: str, folder: Path) -> None:
    """A llamita command in `folder`; what it says is shown where it fails."""
    environment = {**os.environ, "LLAMITA_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "llamita", *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"llamita {words[0]} failed:\n{done.stderr[-4000:]}")
