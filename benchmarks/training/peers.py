"""Compare llamita's training with its peers: time and memory for the same model, weights and batches.

The peers are Hugging Face's `LlamaForCausalLM`, with default settings and tuned (compiled, bf16), and nanoGPT and
LitGPT if clones are given. Measurements are interleaved; a ratio always compares two measurements of the same round.
"""

import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.command import UsageError
from common.rounds import Seconds, interleaved
from training.results import ContextScaling, Measured, Row
from training.shapes import MIN_SECONDS, Shape, Task
from training.worker_process import Worker, closing_all, start, write_inputs

LLAMITA, DEFAULT, TUNED = "llamita", "transformers", "transformers, tuned"
MATMUL = "matmul"
LOSS_TOLERANCE = 0.001, 0.005
"""Relative, before and after the first update: about five times the rounding error of bf16."""


@dataclass(frozen=True)
class Setting:
    """Settings shared by all rows."""

    rounds: int = 5
    nanogpt: Path | None = None
    litgpt: Path | None = None
    compiled: bool = True
    """Whether tuned peers are compiled."""
    threads: int = 0
    """0: llamita's choice."""
    min_seconds: float = MIN_SECONDS
    """The minimum duration of one measurement."""

    def check(self, needs_peers: bool = True) -> None:
        """Raise `UsageError` if measuring would fail later."""
        if self.rounds < 1:
            raise UsageError(f"--rounds is {self.rounds}, but must be above 0")
        if self.threads < 0:
            raise UsageError(f"--threads is {self.threads}, but must be above 0, or 0 for llamita's choice")
        if needs_peers and not find_spec("transformers"):
            raise UsageError("transformers is needed for the comparison, but not installed: pip install transformers")
        if self.nanogpt and not any(file.is_file() for file in (self.nanogpt, self.nanogpt / "model.py")):
            raise UsageError(f"--nanogpt {self.nanogpt}: model.py not found: give the folder of a clone of nanoGPT")
        if self.litgpt and not (self.litgpt / "litgpt" / "model.py").is_file():
            raise UsageError(f"--litgpt {self.litgpt}: litgpt/model.py not found: give the folder of a clone of litgpt")

    def task(self, kind: str, shape: Shape, folder: Path) -> Task:
        """A worker's task with these settings."""
        return Task(kind, shape, folder, threads=self.threads, min_seconds=self.min_seconds)


def measure(shape: Shape, setting: Setting) -> Row:
    """One row: all candidates at one shape. Raises `AssertionError` if their losses differ."""
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as folder, closing_all(workers):
        facts = _start_all(shape, setting, Path(folder), workers)
        require_same_losses(facts[LLAMITA], {name: facts[name] for name in (DEFAULT, TUNED)})
        answers = measure_rounds(workers, setting.rounds)
        flops = [answer["flops"] for answer in answers.pop(MATMUL)]
        candidates = {name: measured(facts[name], answers[name], workers[name].ask("finish")) for name in answers}
    flops_per_token = shape.flops_per_token(facts[LLAMITA]["parameters"])
    return Row(shape, candidates, statistics.median(flops), flops_per_token, facts[LLAMITA]["threads"])


def measured(facts: Mapping[str, Any], answers: list[dict[str, Any]], end: Mapping[str, Any]) -> Measured:
    """The result of one candidate, from the worker's answers at the start, in each round, and at the end."""
    return Measured(
        seconds=[answer["seconds"] for answer in answers],
        memory=end["memory"],
        parts=end["parts"],
        profile=end["profile"],
        parameters=facts["parameters"],
        precision=facts["precision"],
        compiled=facts.get("compiled", False),
    )


def measure_scaling(shapes: list[Shape], setting: Setting) -> ContextScaling:
    """How llamita's time per token grows with the context length: one model at several lengths, interleaved."""
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as folder, closing_all(workers):
        facts = {}
        for shape in shapes:
            own = Path(folder) / str(shape.max_seq_len)
            own.mkdir()
            task, name = setting.task(LLAMITA, shape, own), f"{LLAMITA}, context {shape.max_seq_len:,}"
            write_inputs(task)
            facts[name] = start(workers, name, task)
        answers = measure_rounds(workers, setting.rounds)
        memory = [workers[name].ask("finish")["memory"] for name in workers]
    seconds = Seconds({name: [answer["seconds"] for answer in answers[name]] for name in answers})
    first = next(iter(answers))
    # Tokens per step are about equal; where a length does not divide them, normalize per token.
    sizes = [shape.tokens / shapes[0].tokens for shape in shapes]
    ratios = [
        [ratio / size for ratio in seconds.ratios(name, first)] for name, size in zip(answers, sizes, strict=True)
    ]
    flops = [shape.flops_per_token(facts[name]["parameters"]) for name, shape in zip(answers, shapes, strict=True)]
    return ContextScaling(shapes, ratios, [number / flops[0] for number in flops], memory)


def candidates(shape: Shape, setting: Setting, folder: Path) -> Iterator[tuple[str, Task]]:
    """(name in the tables, task) of each candidate, llamita first."""
    ours = setting.task(LLAMITA, shape, folder)
    yield LLAMITA, ours
    yield DEFAULT, replace(ours, kind="transformers", precision="fp32")
    yield from tuned_peers(replace(ours, compiled=setting.compiled), setting)
    yield MATMUL, replace(ours, kind=MATMUL)


def tuned_peers(task: Task, setting: Setting) -> Iterator[tuple[str, Task]]:
    """(name, task) of transformers, and of nanoGPT and LitGPT if clones are given, in llamita's precision."""
    yield TUNED, replace(task, kind="transformers")
    if setting.nanogpt:
        yield "nanoGPT", replace(task, kind="nanogpt", clone=setting.nanogpt)
    if setting.litgpt:
        yield "litgpt", replace(task, kind="litgpt", clone=setting.litgpt)


def like_llamita(task: Task, facts: Mapping[str, Any]) -> Task:
    """A peer's task with llamita's choice of threads and, if it is `auto`, of precision."""
    precision = facts["precision"] if task.precision == "auto" else task.precision
    return replace(task, threads=facts["threads"], precision=precision)


def _start_all(shape: Shape, setting: Setting, folder: Path, workers: dict[str, Worker]) -> dict[str, dict[str, Any]]:
    """Start the workers one by one: llamita's choice of threads and precision applies to all."""
    facts: dict[str, dict[str, Any]] = {}
    write_inputs(setting.task("inputs", shape, folder))
    for name, task in candidates(shape, setting, folder):
        facts[name] = start(workers, name, task if name == LLAMITA else like_llamita(task, facts[LLAMITA]))
    return facts


def measure_rounds(workers: Mapping[str, Worker], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Each worker's answers, one per round, after a warm-up round."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for number, name in interleaved(workers, rounds):
        answer = workers[name].ask("measure")
        if number:
            answers[name].append(answer)
    return answers


def require_same_losses(reference: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `AssertionError` unless all losses agree: speeds of different computations are not comparable."""
    for name, facts in others.items():
        if facts["parameters"] != reference["parameters"]:
            raise AssertionError(f"{name} has {facts['parameters']:,} parameters, llamita {reference['parameters']:,}")
        for ours, theirs, tolerance in zip(reference["losses"], facts["losses"], LOSS_TOLERANCE, strict=True):
            if not abs(ours - theirs) <= tolerance * theirs:
                raise AssertionError(
                    f"the loss is {theirs} in {name}, {ours} in llamita: they compute different things"
                )
