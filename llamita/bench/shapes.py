"""What training is measured at: shapes of models, how many times as fast as the peer each is to be, and tasks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llamita.config import ModelConfig
from llamita.errors import UserError

TURN = 0.5


@dataclass(frozen=True)
class Shape:
    """A model, and the batch that it learns from at each step; embeddings are not tied."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    vocab_size: int
    max_seq_len: int
    batch_size: int
    goal: float | None = None
    """Times as fast as the peer as it comes."""
    goal_at_best: float | None = None
    """Times as fast as the peer at its best."""

    @property
    def name(self) -> str:
        """What --shapes calls it: width and layers."""
        return f"{self.hidden_size}x{self.num_layers}"

    @property
    def batch(self) -> str:
        """Sequences and their length."""
        return f"{self.batch_size} x {self.max_seq_len:,}"

    @property
    def tokens(self) -> int:
        """Of one step."""
        return self.batch_size * self.max_seq_len

    def model_config(self) -> ModelConfig:
        """The same as the configuration of a Llama."""
        return ModelConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            max_seq_len=self.max_seq_len,
            tie_embeddings=False,
        )

    def with_context(self, max_seq_len: int) -> "Shape":
        """The same model with another context, and about as many tokens a step; without goals of its own."""
        if max_seq_len == self.max_seq_len:
            return self
        rows = max(1, self.tokens // max_seq_len)
        return replace(self, max_seq_len=max_seq_len, batch_size=rows, goal=None, goal_at_best=None)


@dataclass(frozen=True)
class Task:
    """What a worker is to build, and how."""

    kind: str
    """A key of KINDS in `contenders.py`, or `products`."""
    shape: Shape
    folder: Path
    """Where weights and tokens are."""
    clone: Path | None = None
    """The other project, of which there is no package."""
    threads: int = 0
    """0: as many as llamita takes."""
    precision: str = "fp32"
    """Of the peer; llamita chooses its own."""
    compiled: bool = False
    """Whether the peer is to be compiled, where that works."""
    turn: float = TURN
    """Seconds of a turn, at least: of steps that are shorter, it has several."""


SHAPES = (
    Shape(512, 4, 16, 16, 1344, 10_000, 256, 16, 4, 1.5),
    Shape(288, 6, 6, 6, 768, 32_000, 256, 16, 4, 1.5),
    Shape(256, 8, 8, 8, 1024, 50_257, 512, 8, 4, 1.5),
    Shape(128, 4, 4, 4, 341, 65, 64, 12, 3, 2),
    Shape(768, 12, 12, 4, 2048, 32_000, 1024, 2, 4, 1.4),
)
CONTEXTS = 256, 1024, 4096


def choose_shapes(words: Sequence[str]) -> list[Shape]:
    """The shapes of these names or numbers (from 1); all where there are none. Raises `UserError` for others."""
    known = {shape.name: shape for shape in SHAPES} | {str(n): shape for n, shape in enumerate(SHAPES, start=1)}
    for word in words:
        if word not in known:
            listed = ", ".join(f"{number} ({shape.name})" for number, shape in enumerate(SHAPES, start=1))
            raise UserError(f"--shapes: {word!r} is none: choose of {listed}")
    return list(dict.fromkeys(known[word] for word in words)) or list(SHAPES)


def choose_contexts(contexts: Sequence[int]) -> list[int]:
    """These lengths, each once. Raises `UserError` for one that is none."""
    for length in contexts:
        if length < 1:
            raise UserError(f"--contexts: {length} is no length: give numbers above 0")
    return list(dict.fromkeys(contexts))
