"""One request of the decoding engine, and what it has generated so far."""

from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from llamita.config import GenerationConfig
from llamita.generate.detokenizer import Detokenizer
from llamita.generate.sampling import Sampler

FinishReason = Literal["stop", "length"]


class TokenLogprobs(NamedTuple):
    """The natural log-probability of a token by the model itself: before penalties, temperature and filters.

    token     its id
    logprob   its log-probability
    top       the most likely tokens instead of it, as (id, log-probability), the most likely first
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(eq=False)
class Sequence:
    """A request: a prompt, its settings, and what has been generated.

    prompt            ids; at least one
    config            settings
    index             number of the prompt in its call, for randomness
    choice            number of this continuation of the prompt, for randomness
    slides            continue when the context is full, after dropping the first half of it
    ids               generated ids, with the end token or stop token
    text              generated text, if the engine has a tokenizer, without the stop string
    finish_reason     "stop": an end token, stop token or stop string; "length": max_new_tokens, or the context is full;
                      None: not finished
    logprobs          of each generated token, if config.logprobs is set
    prompt_logprobs   of each token of the prompt, if config.prompt_logprobs; None for the first, which has none
    num_slides        how often the first half of the context was dropped
    """

    prompt: list[int]
    config: GenerationConfig
    sampler: Sampler
    detokenizer: Detokenizer | None = None
    index: int = 0
    choice: int = 0
    slides: bool = False
    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)
    num_slides: int = 0

    @property
    def prefill_key(self) -> tuple[object, ...]:
        """Sequences with the same key are prefilled once: the same prompt, and the same scores of it."""
        scores = self.config.logprobs or 0 if self.config.prompt_logprobs else None
        return tuple(self.prompt), scores

    def sample(self, logits: Tensor) -> int:
        """Append the token that follows, sampled from logits (vocab_size,) -> its id."""
        token = self.sampler(logits)
        self.ids.append(token)
        if self.config.logprobs is not None:
            self.logprobs += token_logprobs(logits.unsqueeze(0), [token], self.config.logprobs)
        return token

    def write(self, token: int, ends: bool) -> str:
        """Decode the token that was just sampled -> the new text; `ends`: the token itself is not part of the text."""
        if self.detokenizer is None:
            return ""
        piece = "" if ends else self.detokenizer.push(token)
        if self.finish_reason is not None and not self.detokenizer.has_stopped:
            piece += self.detokenizer.flush()
        self.text += piece
        return piece


def token_logprobs(logits: Tensor, ids: Ids[int], top: int) -> list[TokenLogprobs]:
    """Log-probabilities of `ids`, and of the `top` most likely tokens, by logits (len(ids), vocab_size)."""
    scores = torch.log_softmax(logits.cpu().double(), dim=-1)
    own = scores.gather(-1, torch.tensor(list(ids)).unsqueeze(-1)).squeeze(-1).tolist()
    best, tokens = scores.topk(min(top, scores.shape[-1]), dim=-1)
    tops = (tuple(zip(*row, strict=True)) for row in zip(tokens.tolist(), best.tolist(), strict=True))
    return [TokenLogprobs(*row) for row in zip(ids, own, tops, strict=True)]
