"""How text is drawn from a model: the settings of `generate`."""

from dataclasses import dataclass

from llamita.config.checks import require_not_negative, require_positive
from llamita.errors import UserError


@dataclass(frozen=True)
class GenerationConfig:
    """How text is drawn from a model. Not part of a run's configuration: each call has its own."""

    max_new_tokens: int = 200
    """The most tokens to write; it ends earlier at the end token."""
    temperature: float = 0.8
    """Below 1: likelier tokens are preferred; 0: always the likeliest."""
    top_k: int = 50
    """Draw from the k likeliest tokens only; 0: from all."""
    top_p: float = 1.0
    """Draw from the fewest tokens that together have this probability."""
    repetition_penalty: float = 1.0
    """Above 1: tokens that occurred before become less likely."""
    seed: int = 0
    """Key of the draws: the same seed writes the same text."""

    def __post_init__(self) -> None:
        require_positive(self, "max_new_tokens", "top_p", "repetition_penalty")
        require_not_negative(self, "temperature", "top_k", "seed")
        if self.top_p > 1:
            raise UserError(f"top_p is {self.top_p}, but a probability is at most 1")
