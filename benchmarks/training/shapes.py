"""The models and batches that training is measured at, the goals of each, and the task of a worker process."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.command import UsageError

MIN_SECONDS = 0.5


@dataclass(frozen=True)
class Shape:
    """A model, and the batch of each of its steps."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    vocab_size: int
    max_seq_len: int
    batch_size: int
    goal: float | None = None
    """Speed-up over transformers by default."""
    goal_tuned: float | None = None
    """Speed-up over transformers, tuned."""
    tie_embeddings: bool = False

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
        """Tokens of one step."""
        return self.batch_size * self.max_seq_len

    def model_config(self) -> Any:
        """The `ModelConfig` of llamita for this shape, in a process that has llamita."""
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
        """FLOPs of a training step per token (Chowdhery et al., 2022, appendix B), for a model of so many parameters.

        6 for each weight that multiplies (2 forward, 4 backward; an embedding that is only looked up does not), and
        12 · layers · width · context for attention, halved since it is causal.
        """
        looked_up = 0 if self.tie_embeddings else self.vocab_size * self.hidden_size
        attention = 6 * self.num_layers * self.hidden_size * self.max_seq_len
        return 6 * (parameters - looked_up) + attention

    def with_context(self, max_seq_len: int) -> "Shape":
        """The same model with another context and about as many tokens per step, without goals."""
        if max_seq_len == self.max_seq_len:
            return self
        rows = max(1, self.tokens // max_seq_len)
        return replace(self, max_seq_len=max_seq_len, batch_size=rows, goal=None, goal_tuned=None)


@dataclass(frozen=True)
class Task:
    """What a worker process builds."""

    kind: str
    """`inputs`, `matmul`, `llamita`, or a key of `PEERS` in `peer_models.py`."""
    shape: Shape
    folder: Path
    """Where the initial weights, the tokens and their order are; the kind `inputs` writes them."""
    clone: Path | None = None
    """The clone of a project that has no package."""
    source: Path | None = None
    """The folder to import llamita from; None: wherever it is installed, else this checkout."""
    cache: Path | None = None
    """The worker's LLAMITA_CACHE; None: the user's."""
    threads: int = 0
    """CPU threads; 0: as many as llamita chooses."""
    precision: str = "auto"
    """auto, fp32, bf16 or fp16. Only llamita knows what auto is; peers are given what it chose."""
    compiled: bool = False
    """Whether to use torch.compile, where it works."""
    device: str = "cpu"
    min_seconds: float = MIN_SECONDS
    """The least duration of one measurement, which has several steps where they are short."""


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
    """The shapes of these names or numbers (from 1); all if there are none. Raises `UsageError` for unknown ones."""
    known = {shape.name: shape for shape in SHAPES} | {str(n): shape for n, shape in enumerate(SHAPES, start=1)}
    for word in words:
        if word not in known:
            listed = ", ".join(f"{number} ({shape.name})" for number, shape in enumerate(SHAPES, start=1))
            raise UsageError(f"--shapes: {word!r} is unknown: choose from {listed}")
    return list(dict.fromkeys(known[word] for word in words)) or list(SHAPES)


def choose_contexts(contexts: Sequence[int]) -> list[int]:
    """These lengths, each once. Raises `UsageError` for one below 1."""
    for length in contexts:
        if length < 1:
            raise UsageError(f"--contexts: {length} is not a length: give numbers above 0")
    return list(dict.fromkeys(contexts))
