"""The benchmarked models and batches with their goals, and the task of a worker process."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.command import UsageError

MIN_SECONDS = 0.5


@dataclass(frozen=True)
class Shape:
    """A model and its batch."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    vocab_size: int
    max_seq_len: int
    batch_size: int
    goal: float | None = None
    """Speed-up over transformers with default settings."""
    goal_tuned: float | None = None
    """Speed-up over transformers, tuned."""
    tie_embeddings: bool = False

    @property
    def name(self) -> str:
        """Its name for --shapes: width and layers."""
        return f"{self.hidden_size}x{self.num_layers}"

    @property
    def batch(self) -> str:
        """Sequences and their length."""
        return f"{self.batch_size} x {self.max_seq_len:,}"

    @property
    def tokens(self) -> int:
        """Tokens per step."""
        return self.batch_size * self.max_seq_len

    def model_config(self) -> Any:
        """llamita's `ModelConfig` for this shape; imports llamita."""
        from llamita.model import ModelConfig

        return ModelConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.hidden_size // self.num_heads,
            max_seq_len=self.max_seq_len,
            tie_embeddings=self.tie_embeddings,
        )

    def flops_per_token(self, parameters: int) -> int:
        """FLOPs of a training step per token (Chowdhery et al., 2022, appendix B).

        6 per weight in a matrix product (2 forward, 4 backward; an embedding that is only looked up is in none), and
        12 · layers · width · context for attention, halved since it is causal.
        """
        looked_up = 0 if self.tie_embeddings else self.vocab_size * self.hidden_size
        attention = 6 * self.num_layers * self.hidden_size * self.max_seq_len
        return 6 * (parameters - looked_up) + attention

    def with_context(self, max_seq_len: int) -> "Shape":
        """The same model with another context length, about the same tokens per step, and no goals."""
        if max_seq_len == self.max_seq_len:
            return self
        rows = max(1, self.tokens // max_seq_len)
        return replace(self, max_seq_len=max_seq_len, batch_size=rows, goal=None, goal_tuned=None)


@dataclass(frozen=True)
class Task:
    """What a worker process builds and measures."""

    kind: str
    """`inputs`, `matmul`, `llamita`, or a key of `PEERS` in `peer_models.py`."""
    shape: Shape
    folder: Path
    """The folder of the initial weights, tokens and batch order; the kind `inputs` writes them."""
    clone: Path | None = None
    """The clone of a project without a package."""
    source: Path | None = None
    """The folder to import llamita from; None: wherever it is installed, else this checkout."""
    cache: Path | None = None
    """The worker's LLAMITA_CACHE; None: the user's."""
    threads: int = 0
    """CPU threads; 0: llamita's choice."""
    precision: str = "auto"
    """auto, fp32, bf16 or fp16. Only llamita resolves auto; peers get its choice."""
    compiled: bool = False
    """Whether to use torch.compile, if it works."""
    device: str = "cpu"
    min_seconds: float = MIN_SECONDS
    """The minimum duration of one measurement, which repeats short steps."""


SHAPES = (
    Shape(512, 4, 16, 16, 1344, 10_000, 256, 16, 4, 1.5),
    Shape(288, 6, 6, 6, 768, 32_000, 256, 16, 4, 1.5),
    Shape(256, 8, 8, 8, 1024, 50_257, 512, 8, 4, 1.5),
    Shape(128, 4, 4, 4, 341, 65, 64, 12, 3, 2),
    Shape(768, 12, 12, 4, 2048, 32_000, 1024, 2, 4, 1.4),
)
SMALLEST = SHAPES[3]
CONTEXTS = 256, 1024, 4096


def choose_shapes(words: Sequence[str]) -> list[Shape]:
    """The shapes with these names or numbers (from 1); default: all. Raises `UsageError` for unknown ones."""
    known = {shape.name: shape for shape in SHAPES} | {str(n): shape for n, shape in enumerate(SHAPES, start=1)}
    for word in words:
        if word not in known:
            listed = ", ".join(f"{number} ({shape.name})" for number, shape in enumerate(SHAPES, start=1))
            raise UsageError(f"--shapes: {word!r} is unknown: choose from {listed}")
    return list(dict.fromkeys(known[word] for word in words)) or list(SHAPES)


def choose_contexts(contexts: Sequence[int]) -> list[int]:
    """The distinct lengths. Raises `UsageError` for one below 1."""
    for length in contexts:
        if length < 1:
            raise UsageError(f"--contexts: {length} is not a length: give numbers above 0")
    return list(dict.fromkeys(contexts))
