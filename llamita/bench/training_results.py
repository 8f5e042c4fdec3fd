"""What was measured of training, and the tables that say it."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llamita.bench.shapes import Shape
from llamita.bench.timing import Seconds

MEMORY_GOAL = 0.75  # of the leanest peer's
PEAK_GOAL = 0.65  # of what the machine does in matrix products
AROUND_GOAL = 0.05  # of a step, for what is not the model
MIB = 1 << 20
AROUND = ("data", "clipping", "optimizer", "zeroing", "logging")
"""The parts of a step that are neither forward nor backward pass."""


@dataclass(frozen=True)
class Measured:
    """One contender at one shape."""

    seconds: list[float]
    """Of a step, one number a round."""
    memory: int
    """Bytes resident at most."""
    parts: dict[str, float]
    """Seconds of each part of a step."""
    shares: dict[str, float]
    """Of a step's time, by operation."""
    parameters: int
    precision: str
    compiled: bool

    @property
    def step(self) -> float:
        """Seconds of a step, in the middle round."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Row:
    """All contenders at one shape; the first is llamita, the next two are the peer as it comes and at its best."""

    shape: Shape
    contenders: dict[str, Measured]
    peak: float
    """Operations a second of the machine's fastest matrix product, in the same turns."""
    flops_per_token: int
    threads: int

    @property
    def ours(self) -> Measured:
        """llamita."""
        return next(iter(self.contenders.values()))

    @property
    def name(self) -> str:
        """Of the shape and its batch."""
        return f"{self.shape.name}, {self.shape.batch}"

    def ratios(self, peer: str) -> list[float]:
        """How many times as fast llamita was, round by round, ascending."""
        ours = next(iter(self.contenders))
        return Seconds({name: each.seconds for name, each in self.contenders.items()}).ratios(peer, ours)

    def memory_share(self) -> float:
        """llamita's memory beside that of the peer which takes least of it."""
        _, as_it_comes, best = list(self.contenders.values())[:3]
        return self.ours.memory / min(as_it_comes.memory, best.memory)

    def peak_share(self) -> float:
        """The operations of a step, by `flops_per_token`, beside those that the machine could do in its time."""
        return self.flops_per_token * self.shape.tokens / self.ours.step / self.peak

    def around_share(self) -> float:
        """The share of llamita's step that is neither forward nor backward pass."""
        return sum(self.ours.parts[name] for name in AROUND) / sum(self.ours.parts.values())

    def speed(self, name: str) -> float:
        """Tokens a second."""
        return self.shape.tokens / self.contenders[name].step


@dataclass(frozen=True)
class Growth:
    """llamita with several contexts, each beside the first."""

    shapes: list[Shape]
    ratios: list[list[float]]
    """Of the time a token takes, round by round, ascending."""
    expected: list[float]
    """Of the operations that a token takes."""
    memory: list[int]


@dataclass(frozen=True)
class WholeRun:
    """`llamita train` from its start to its end, beside bare steps measured before and after it."""

    steps: int
    every: int
    """Steps between evaluations, samples and checkpoints."""
    tokens: int
    bare: float
    """Seconds of a bare step."""
    whole: float
    """Seconds of the command."""
    looping: float
    """Seconds from its first line of metrics, at step 0, to its end: without importing, opening data, and the plan."""


COLUMNS = (
    "shape", "vocabulary", "batch", "llamita, tokens/s",
    "transformers as it comes", "times as fast (least-most)", "goal",
    "transformers at its best", "times as fast (least-most)", "goal",
    "memory, MiB", "of the leanest peer's", "of the matrix peak",
)  # fmt: skip


def header(columns: Sequence[str] = COLUMNS) -> str:
    """The two lines that a table in Markdown begins with."""
    return f"{line(columns)}\n{'|---' * len(columns)}|"


def row_line(row: Row) -> str:
    """The main table's line of one row."""
    shape, (ours, *peers) = row.shape, row.contenders
    cells = [shape.name, f"{shape.vocab_size:,}", shape.batch, f"{row.speed(ours):,.0f}"]
    for peer, goal in zip(peers[:2], (shape.goal, shape.goal_at_best), strict=True):
        cells += [f"{row.speed(peer):,.0f}", spread(row.ratios(peer)), f"{goal:g}" if goal else ""]
    cells += [f"{row.ours.memory / MIB:,.0f}", f"{row.memory_share():.2f}", f"{row.peak_share():.0%}"]
    return line(cells)


def notes(rows: list[Row], compiling: bool) -> Iterator[str]:
    """What the main table does not say: the goals of all rows, and how the peer at its best was computed."""
    yield (
        f"Goals of all rows: memory at most {MEMORY_GOAL:g} of the leanest peer's; at the first shape at least "
        f"{PEAK_GOAL:.0%} of the matrix peak, and at most {AROUND_GOAL:.0%} of a step around the model."
    )
    best = list(rows[0].contenders.values())[2]
    if compiling and not best.compiled:
        yield "torch.compile does not work here (is there a C++ compiler?): the peer at its best is not compiled."
    elif not compiling:
        yield "The peer at its best was not compiled (--no-compile)."
    if best.precision != "bf16":
        yield "This processor does not multiply bf16: everything is fp32."


def other_models(rows: list[Row]) -> Iterator[str]:
    """The table of nanoGPT and LitGPT, where there are clones of them."""
    others = [(row, name) for row in rows for name in list(row.contenders)[3:]]
    if others:
        columns = ("other model", "its parameters", "tokens/s", "llamita, times as fast (least-most)", "memory, MiB")
        yield header(("shape", "batch", *columns))
    for row, name in others:
        other = row.contenders[name]
        speed, memory = f"{row.speed(name):,.0f}", f"{other.memory / MIB:,.0f}"
        parameters = f"{other.parameters:,} ({row.ours.parameters:,} in llamita's)"
        yield line([row.shape.name, row.shape.batch, name, parameters, speed, spread(row.ratios(name)), memory])


def step_parts(rows: list[Row]) -> Iterator[str]:
    """Where the time of llamita's steps goes: milliseconds by part, and shares by operation."""
    parts, shares = list(rows[0].ours.parts), list(rows[0].ours.shares)
    yield header(["shape", "batch", *(f"{part}, ms" for part in parts), "around the model", *shares])
    for row in rows:
        times = [f"{1e3 * seconds:.1f}" for seconds in row.ours.parts.values()]
        found = [f"{share:.0%}" for share in row.ours.shares.values()]
        yield line([row.shape.name, row.shape.batch, *times, f"{row.around_share():.1%}", *found])


def growth_lines(growth: Growth) -> Iterator[str]:
    """Time and memory of each context beside the first."""
    times = "time a token, times the first's (least-most)"
    yield header(("shape", "batch", times, "operations a token", "memory, times the first's"))
    for shape, ratios, expected, memory in zip(
        growth.shapes, growth.ratios, growth.expected, growth.memory, strict=True
    ):
        beside = f"{memory / growth.memory[0]:.2f}"
        yield line([shape.name, shape.batch, spread(ratios), f"{expected:.2f}", beside])


def whole_run_lines(run: WholeRun) -> Iterator[str]:
    """What is left of the bare step's speed when all that a run does besides is counted."""
    intervals, of_bare = "evaluation, samples and checkpoint every", "of the bare speed"
    yield header(("steps", intervals, "bare step", "the run's loop", of_bare, "whole command", of_bare))
    loop, whole = (f"{run.steps * run.bare / seconds:.0%}" for seconds in (run.looping, run.whole))
    bare = f"{1e3 * run.bare:,.0f} ms"
    yield line([f"{run.steps:,}", f"{run.every:,}", bare, f"{run.looping:,.1f} s", loop, f"{run.whole:,.1f} s", whole])


def spread(ratios: list[float]) -> str:
    """The middle one, the least and the most, of ascending ones."""
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"


def line(cells: Sequence[str]) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"
