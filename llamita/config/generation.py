"""The settings of sampling: flags of `generate`, and of `eval --generate`."""

from dataclasses import dataclass

from llamita.config.checks import require_not_negative, require_positive
from llamita.errors import UserError


@dataclass(frozen=True)
class GenerationConfig:
    """How text is sampled from a model. Not part of the configuration of a run: each call has its own."""

    max_new_tokens: int = 200
    """Maximum number of tokens to generate; generation also stops at the end token."""
    temperature: float = 0.8
    """Divides the logits: below 1 is sharper, above 1 flatter; 0: greedy decoding."""
    top_k: int = 50
    """Sample from the k most likely tokens; 0: from all."""
    top_p: float = 1.0
    """Nucleus sampling: sample from the fewest tokens with this total probability; 1: from all."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that occurred before become less likely; 1: off."""
    seed: int = 0
    """The same seed generates the same text."""

    def __post_init__(self) -> None:
        require_positive(self, "max_new_tokens", "top_p", "repetition_penalty")
        require_not_negative(self, "temperature", "top_k", "seed")
        if self.top_p > 1:
            raise UserError(f"top_p is {self.top_p}, but a probability is at most 1")
