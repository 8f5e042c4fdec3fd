"""The settings of generation: flags of `generate`, and of `eval --generate`."""

import math
from dataclasses import dataclass

from llamita.config.checks import require_not_negative, require_positive, require_utf8
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
    min_p: float = 0.0
    """Sample from the tokens at least this many times as likely as the most likely one; 0: from all."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of each token that was generated before; 0: off."""
    frequency_penalty: float = 0.0
    """Subtracted from the logit of a token each time that it was generated before; 0: off."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids, each with a number that is added to its logit; empty: off."""
    stop: tuple[str, ...] = ()
    """Text that ends the generation, and is left out; may be given several times; empty: off."""
    stop_token_ids: tuple[int, ...] = ()
    """Token ids that end the generation, like the end token; empty: off."""
    logprobs: int | None = None
    """Log-probabilities of each generated token and of this many most likely ones; None: off."""
    prompt_logprobs: bool = False
    """Also the log-probabilities of the prompt's tokens; False: off."""

    def __post_init__(self) -> None:
        require_positive(self, "top_p", "repetition_penalty")
        require_not_negative(self, "max_new_tokens", "temperature", "top_k", "seed", "min_p")
        if self.max_new_tokens == 0 and not self.prompt_logprobs:
            raise UserError("max_new_tokens is 0, but must be above 0 (only with prompt_logprobs, 0 has a use)")
        for name in ("top_p", "min_p"):
            if getattr(self, name) > 1:
                raise UserError(f"{name} is {getattr(self, name)}, but a probability is at most 1")
        for name in ("presence_penalty", "frequency_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{name} is {getattr(self, name)}, but must be finite")
        if self.logprobs is not None:
            require_not_negative(self, "logprobs")
        self._check_tokens()

    def _check_tokens(self) -> None:
        """Raise `UserError` for stops and biases that make no sense, whatever the tokenizer is."""
        for token, bias in self.logit_bias:
            if token < 0 or not math.isfinite(bias):
                raise UserError(f"logit_bias has {token}: {bias}, but must have token ids with finite numbers")
        require_utf8(self, "stop")
        if "" in self.stop:
            raise UserError("stop is empty text, which would end every generation: leave it out")
        if any(token < 0 for token in self.stop_token_ids):
            raise UserError(f"stop_token_ids is {list(self.stop_token_ids)}, but token ids are not negative")
