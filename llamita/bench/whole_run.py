"""`llamita train` as a person starts it, beside bare steps: what do evaluation, samples and checkpoints cost?"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llamita.bench.shapes import Shape, Task
from llamita.bench.training_results import WholeRun
from llamita.bench.workers import Worker, closing_all
from llamita.config import ExecutionConfig, RunConfig, require_not_negative, require_positive
from llamita.errors import UserError
from llamita.tokenizer import END_OF_TEXT

WORDS = 20_000
DOCUMENTS = 12_000
VOCABULARIES = 300, 16_000  # that BPE finds in so many words
SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvwz" for vowel in ("a", "e", "i", "o", "u", "ai", "ou")]


@dataclass(frozen=True)
class WholeRunSetting:
    """How long a run, and how often it stops to do something else."""

    max_steps: int = 400
    every: int = 100
    """Steps between evaluations, samples and checkpoints."""
    eval_sequences: int | Literal["auto"] = ExecutionConfig.eval_sequences
    """Of each evaluation; 0: all."""
    sample_count: int = ExecutionConfig.sample_count
    """Samples each time."""
    turns: int = 10
    """Turns of bare steps before the run, and after it."""
    threads: int = 0
    documents: int = DOCUMENTS
    """Of 150 words."""

    def check(self, shape: Shape) -> None:
        """Raise `UserError` where there can be no such run at this shape."""
        require_positive(self, "max_steps", "every", "sample_count")
        if self.eval_sequences != "auto":
            require_not_negative(self, "eval_sequences")
        if not VOCABULARIES[0] <= shape.vocab_size <= VOCABULARIES[1]:
            raise UserError(
                f"--end_to_end: made-up words have no vocabulary of {shape.vocab_size:,}: put another of --shapes first"
            )


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
        _require_same_model(shape, folder / "run" / "config.toml")
        began = json.loads((folder / "run" / "metrics.jsonl").read_text().splitlines()[0])["timestamp"]
    return WholeRun(setting.max_steps, setting.every, shape.tokens, bare, ended - started, ended - began)


def _require_same_model(shape: Shape, file: Path) -> None:
    """A vocabulary that did not become as large as it should be would make a faster model."""
    model = RunConfig.from_toml(file).model
    if model != replace(shape.model_config(), head_init=model.head_init):
        raise AssertionError(f"llamita train made another model: {model}")


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
    length = {name: getattr(setting, name) for name in ("max_steps", "eval_sequences", "sample_count")}
    return ["train", *_flags(**model, **every, **run, **length, batch_size=shape.batch_size), "--no-tie_embeddings"]


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
