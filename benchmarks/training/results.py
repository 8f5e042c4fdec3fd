"""Results of the training benchmarks."""

import statistics
from dataclasses import dataclass

from common.intervals import Interval, median_interval
from common.rounds import Seconds
from training.shapes import Shape

MIB = 1 << 20
OVERHEAD = ("data", "clipping", "optimizer", "zeroing", "logging")
"""The parts of a step outside forward and backward."""


@dataclass(frozen=True)
class Measured:
    """One candidate at one shape."""

    seconds: list[float]
    """Per step, one number per round."""
    memory: int
    """Peak bytes: resident on a CPU, allocated on a GPU."""
    parts: dict[str, float]
    """Seconds of each part of a step."""
    profile: dict[str, float]
    """Share of a step's time in each kind of operation."""
    parameters: int
    precision: str
    compiled: bool

    @property
    def step(self) -> float:
        """Seconds per step in the median round."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Row:
    """All candidates at one shape: llamita, transformers with default settings and tuned, then the others."""

    shape: Shape
    candidates: dict[str, Measured]
    peak: float
    """FLOP/s of the machine's fastest matrix product, measured in the same rounds."""
    flops_per_token: int
    threads: int

    @property
    def ours(self) -> Measured:
        """llamita."""
        return next(iter(self.candidates.values()))

    @property
    def name(self) -> str:
        """Shape and batch."""
        return f"{self.shape.name}, {self.shape.batch}"

    def ratios(self, peer: str) -> list[float]:
        """llamita's speed over the peer's in each round, ascending."""
        ours = next(iter(self.candidates))
        return Seconds({name: each.seconds for name, each in self.candidates.items()}).ratios(peer, ours)

    def memory_ratio(self) -> float:
        """llamita's peak memory over that of transformers, default or tuned, whichever needs less."""
        _, default, tuned = list(self.candidates.values())[:3]
        return self.ours.memory / min(default.memory, tuned.memory)

    def mfu(self) -> float:
        """FLOP/s of llamita's step over the measured peak FLOP/s."""
        return self.flops_per_token * self.shape.tokens / self.ours.step / self.peak

    def overhead(self) -> float:
        """The fraction of llamita's step outside forward and backward."""
        return sum(self.ours.parts[name] for name in OVERHEAD) / sum(self.ours.parts.values())

    def speed(self, name: str) -> float:
        """Tokens per second."""
        return self.shape.tokens / self.candidates[name].step


@dataclass(frozen=True)
class ContextScaling:
    """llamita at several context lengths, each relative to the first."""

    shapes: list[Shape]
    ratios: list[list[float]]
    """Of the time per token in each round, ascending."""
    expected: list[float]
    """Of the FLOPs per token."""
    memory: list[int]


@dataclass(frozen=True)
class FullRun:
    """A complete `llamita train`, and bare steps measured before and after it."""

    steps: int
    every: int
    """Steps between evaluations, samples and checkpoints."""
    tokens: int
    bare: float
    """Seconds per bare step."""
    command: float
    """Seconds of the command."""
    loop: float
    """Seconds from its first line of metrics, at step 0, to its end: excludes imports, opening data, and the plan."""


@dataclass(frozen=True)
class BaselineRow:
    """This llamita and an older one at one shape, measured in the same rounds."""

    shape: Shape
    new: Measured
    old: Measured
    speed: Interval
    """Of the ratio of tokens per second, new over old, over the rounds."""
    ratios: list[float]
    """The same in each round, ascending."""

    @classmethod
    def of(cls, shape: Shape, new: Measured, old: Measured) -> "BaselineRow":
        """The row for two measurements of the same rounds."""
        ratios = Seconds({"new": new.seconds, "old": old.seconds}).ratios("old", "new")
        return cls(shape, new, old, median_interval(ratios), ratios)

    @property
    def name(self) -> str:
        """Shape and batch."""
        return f"{self.shape.name}, {self.shape.batch}"

    @property
    def memory_ratio(self) -> float:
        """Peak memory, new over old."""
        return self.new.memory / self.old.memory


@dataclass(frozen=True)
class Load:
    """A candidate on an idle machine and next to a busy process."""

    threads: int
    idle: list[float]
    """Seconds per step, one number per round."""
    busy: list[float]


@dataclass(frozen=True)
class BusyRow:
    """All candidates at one shape, idle and next to a process that spins on one core."""

    shape: Shape
    candidates: dict[str, Load]

    @property
    def name(self) -> str:
        """Shape and batch."""
        return f"{self.shape.name}, {self.shape.batch}"

    def speed(self, name: str, load: str) -> float:
        """Tokens per second, `idle` or `busy`."""
        return self.shape.tokens / statistics.median(getattr(self.candidates[name], load))

    def retained(self, name: str) -> list[float]:
        """The fraction of its idle speed that a candidate retains next to the busy process, by round, ascending."""
        candidate = self.candidates[name]
        return sorted(idle / busy for idle, busy in zip(candidate.idle, candidate.busy, strict=True))
