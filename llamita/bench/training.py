"""llamita's training beside that of its peers: the same model, weights and batches, in how much time and memory?

Peers are Hugging Face's `LlamaForCausalLM` as it comes and at its best, compiled and in bf16, and clones of nanoGPT
and LitGPT where there are some. All take turns; a ratio is one of two turns of the same round.
"""

import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llamita.bench.shapes import TURN, Shape, Task
from llamita.bench.timing import Seconds
from llamita.bench.training_results import Growth, Measured, Row
from llamita.bench.workers import Worker, closing_all
from llamita.errors import UserError

OURS, AS_IT_COMES, AT_ITS_BEST = "llamita", "transformers", "transformers at its best"
PRODUCTS = "products"
SAME_LOSS = 0.001, 0.005
"""How far losses may lie apart, before the first update and after it, as a share: about five times what bf16 does."""


@dataclass(frozen=True)
class Setting:
    """What all rows share."""

    rounds: int = 5
    nanogpt: Path | None = None
    litgpt: Path | None = None
    compiled: bool = True
    """Whether peers at their best are compiled."""
    threads: int = 0
    """0: all cores."""
    turn: float = TURN
    """Seconds of a turn, at least."""

    def check(self) -> None:
        """Raise `UserError` where measuring would fail later."""
        if self.rounds < 1:
            raise UserError(f"--rounds is {self.rounds}, but must be above 0")
        if self.threads < 0:
            raise UserError(f"--threads is {self.threads}, but must be above 0, or 0 for all cores")
        if not find_spec("transformers"):
            raise UserError("bench train compares with transformers, not installed: pip install transformers")
        if self.nanogpt and not any(file.is_file() for file in (self.nanogpt, self.nanogpt / "model.py")):
            raise UserError(f"--nanogpt {self.nanogpt}: there is no model.py: give the folder of a clone of nanoGPT")
        if self.litgpt and not (self.litgpt / "litgpt" / "model.py").is_file():
            raise UserError(
                f"--litgpt {self.litgpt}: there is no litgpt/model.py: give the folder of a clone of litgpt"
            )


def measure(shape: Shape, setting: Setting) -> Row:
    """One row: all contenders at one shape. Raises `AssertionError` where their losses differ."""
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as folder, closing_all(workers):
        facts = _start_all(shape, setting, Path(folder), workers)
        _require_same_losses(facts)
        turns = _take_turns(workers, setting.rounds)
        flops = [turn["flops"] for turn in turns.pop(PRODUCTS)]
        contenders = {name: _measured(facts[name], turns[name], workers[name].ask("finish")) for name in turns}
    ours = facts[OURS]
    return Row(shape, contenders, statistics.median(flops), ours["flops_per_token"], ours["threads"])


def _measured(facts: Mapping[str, Any], turns: list[dict[str, Any]], end: Mapping[str, Any]) -> Measured:
    return Measured(
        seconds=[turn["seconds"] for turn in turns],
        memory=end["memory"],
        parts=end["parts"],
        shares=end["shares"],
        parameters=facts["parameters"],
        precision=facts["precision"],
        compiled=facts.get("compiled", False),
    )


def measure_growth(shapes: list[Shape], setting: Setting) -> Growth:
    """How llamita's time a token grows with the context: one model with several of them, in turns."""
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as folder, closing_all(workers):
        facts = {}
        for shape in shapes:
            own = Path(folder) / str(shape.max_seq_len)
            own.mkdir()
            name = f"{OURS}, context {shape.max_seq_len:,}"
            facts[name] = _start(workers, name, Task(OURS, shape, own, threads=setting.threads, turn=setting.turn))
        turns = _take_turns(workers, setting.rounds)
        memory = [workers[name].ask("finish")["memory"] for name in workers]
    seconds = Seconds({name: [turn["seconds"] for turn in turns[name]] for name in turns})
    first = next(iter(turns))
    # At about equal tokens a step; where a context divides them not, by the tokens there are.
    per_token = [shape.tokens / shapes[0].tokens for shape in shapes]
    ratios = [
        [ratio / share for ratio in seconds.ratios(name, first)] for name, share in zip(turns, per_token, strict=True)
    ]
    flops = [facts[name]["flops_per_token"] for name in turns]
    return Growth(shapes, ratios, [number / flops[0] for number in flops], memory)


def tasks(shape: Shape, setting: Setting, folder: Path) -> Iterator[tuple[str, Task]]:
    """The contenders, llamita first, by the names that the tables give them."""
    ours = Task(OURS, shape, folder, threads=setting.threads, turn=setting.turn)
    yield OURS, ours
    yield AS_IT_COMES, replace(ours, kind="transformers")
    best = replace(ours, compiled=setting.compiled, precision="bf16")
    yield AT_ITS_BEST, replace(best, kind="transformers")
    if setting.nanogpt:
        yield "nanoGPT", replace(best, kind="nanogpt", clone=setting.nanogpt)
    if setting.litgpt:
        yield "litgpt", replace(best, kind="litgpt", clone=setting.litgpt)
    yield PRODUCTS, replace(best, kind=PRODUCTS)


def _start_all(shape: Shape, setting: Setting, folder: Path, workers: dict[str, Worker]) -> dict[str, dict[str, Any]]:
    """Start them one after the other: llamita decides on threads and on bf16, and leaves weights for the rest."""
    facts: dict[str, dict[str, Any]] = {}
    for name, task in tasks(shape, setting, folder):
        if name != OURS:
            ours = facts[OURS]
            narrow = ours["precision"] if task.precision == "bf16" else "fp32"
            task = replace(task, threads=ours["threads"], precision=narrow)
        facts[name] = _start(workers, name, task)
    return facts


def _start(workers: dict[str, Worker], name: str, task: Task) -> dict[str, Any]:
    workers[name] = Worker(name, task)
    facts = workers[name].facts()
    if facts.get("has_compiled"):  # loops, once on a machine, and holds the compiler: the next process finds them
        workers[name].close()
        workers[name] = Worker(name, task)
        facts = workers[name].facts()
    return facts


def _take_turns(workers: Mapping[str, Worker], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """What each answered, one a round, after one round that does not count."""
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for number in range(rounds + 1):
        for name, worker in workers.items():
            answer = worker.ask("turn")
            if number:
                turns[name].append(answer)
    return turns


def _require_same_losses(facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Speeds of different results cannot be compared."""
    for name in (AS_IT_COMES, AT_ITS_BEST):
        if facts[name]["parameters"] != facts[OURS]["parameters"]:
            raise AssertionError(f"{name} has another number of parameters than {OURS}")
        for ours, theirs, share in zip(facts[OURS]["losses"], facts[name]["losses"], SAME_LOSS, strict=True):
            if not abs(ours - theirs) <= share * theirs:
                raise AssertionError(
                    f"{name}: the loss is {theirs}, and {ours} of {OURS}: they compute different things"
                )
