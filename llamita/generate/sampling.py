"""From logits to the next token. The order of the steps, each of which can be off:

    1. ids that no token has are excluded
    2. `logit_bias` is added
    3. `repetition_penalty`: tokens of the prompt and of the text so far
    4. `presence_penalty` and `frequency_penalty`: tokens of the text so far, without the prompt
    5. `temperature`; with 0, the most likely token is chosen here
    6. `top_k`, then `top_p` of what is left, then `min_p`
    7. one of the remaining tokens is drawn

The order is that of Hugging Face's `generate`. Probabilities are float64, which Apple's GPUs lack: so they are computed
on the CPU, and the same logits and randomness give the same tokens on every device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from llamita.config import GenerationConfig
from llamita.errors import UserError
from llamita.randomness import key


class Sampler:
    """Samples the tokens of one sequence, by the settings of a `GenerationConfig`.

    Randomness is keyed by (config.seed, index, choice, position), where position is the number of tokens before the
    sampled one, prompt included. So it depends neither on the device nor on other sequences, and a text that is
    continued with its first tokens as the prompt draws the same numbers.

        seen     (vocab_size,) bool: the tokens that the repetition penalty makes less likely
        counts   (vocab_size,) float64: how often each token was generated
        bias     (vocab_size,) float64: added to the logits, -inf for ids that no token has; None: nothing to add
    """

    def __init__(
        self,
        prompt: Sequence[int],
        vocab_size: int,
        config: GenerationConfig,
        *,
        index: int = 0,
        choice: int = 0,
        end_id: int | None = None,
        assigned: Tensor | None = None,
    ):
        """`index` and `choice`: the number of the prompt in its call, and of the continuation of this prompt.

        `end_id` begins every document, which is no repetition. `assigned` (vocab_size,) bool: the ids that may be
        sampled; None: all. Raises `UserError` for a bias of a token that the vocabulary lacks.
        """
        self.config, self.index, self.choice, self.position = config, index, choice, len(prompt)
        self.bias = make_bias(config.logit_bias, vocab_size, assigned)
        self.seen = torch.zeros(vocab_size, dtype=torch.bool)
        self.seen[list(prompt)] = True
        if end_id is not None:
            self.seen[end_id] = False
        self.counts = torch.zeros(vocab_size, dtype=torch.float64)

    def __call__(self, logits: Tensor) -> int:
        """Logits (vocab_size,), on any device -> the id of the next token."""
        config = self.config
        uniform = key(config.seed, "sample", self.index, self.choice, self.position) / 2**63
        token = sample_logits(
            self.adjust(logits.cpu()).unsqueeze(0),
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            min_p=config.min_p,
            uniform=torch.tensor([uniform], dtype=torch.float64),
        )
        chosen = int(token)
        self.seen[chosen] = True
        self.counts[chosen] += 1
        self.position += 1
        return chosen

    def adjust(self, logits: Tensor) -> Tensor:
        """Steps 1 to 4: logits (vocab_size,) -> (vocab_size,), in float64 if anything changes."""
        config = self.config
        if self.bias is not None:
            logits = logits.double() + self.bias
        if config.repetition_penalty != 1:
            logits = penalize_repetition(logits.double(), self.seen, config.repetition_penalty)
        if config.presence_penalty or config.frequency_penalty:
            logits = penalize_counts(logits.double(), self.counts, config.presence_penalty, config.frequency_penalty)
        return logits


def make_bias(logit_bias: Sequence[tuple[int, float]], vocab_size: int, assigned: Tensor | None) -> Tensor | None:
    """(vocab_size,) float64 to add to logits, -inf where `assigned` is False; None for nothing to add."""
    if assigned is None and not logit_bias:
        return None
    bias = torch.zeros(vocab_size, dtype=torch.float64)
    for token, number in logit_bias:
        if token >= vocab_size:
            raise UserError(f"logit_bias names token {token}, but the vocabulary has {vocab_size:,}: leave it out")
        bias[token] += number
    return bias if assigned is None else bias.masked_fill_(~assigned, -torch.inf)


def sample_logits(
    logits: Tensor,
    *,
    temperature: float = 0.8,
    top_k: int = 50,
    top_p: float = 1.0,
    min_p: float = 0.0,
    uniform: Tensor | None = None,
) -> Tensor:
    """Sample one token per row: logits (batch, vocab_size) -> ids (batch,) int64, on the device of the logits.

    temperature   divides the logits; 0 is greedy decoding
    top_k         keep the k most likely tokens (Fan et al., 2018); 0: all
    top_p         of those, keep the fewest with this total probability (nucleus; Holtzman et al., 2020); 1: all
    min_p         of those, keep the ones with this share of the largest probability (Nguyen et al., 2024); 0: all
    uniform       (batch,) in [0, 1): the randomness, a number per row; from torch's generator if not given

    The same `uniform` gives the same tokens: it is looked up in the cumulative distribution of its row.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    kept, ids = most_likely(logits.cpu(), top_k)  # (batch, k)
    probabilities = softmax(kept.double(), temperature)
    before = probabilities.cumsum(dim=-1) - probabilities  # of all tokens more likely than this one
    dropped = before >= top_p * probabilities.sum(dim=-1, keepdim=True)
    dropped |= probabilities < min_p * probabilities[:, :1]
    dropped[:, 0] = False  # however small top_p is
    cumulative = probabilities.masked_fill_(dropped, 0.0).cumsum(dim=-1)
    if uniform is None:
        uniform = torch.rand(len(logits), dtype=torch.float64)
    # The first place whose cumulative probability exceeds the number; never one of probability 0.
    place = torch.searchsorted(cumulative, (uniform.cpu().double() * cumulative[:, -1]).unsqueeze(-1), right=True)
    place = place.clamp(max=(probabilities > 0).sum(dim=-1, keepdim=True) - 1)
    return ids.gather(-1, place).squeeze(-1).to(logits.device)


def softmax(logits: Tensor, temperature: float) -> Tensor:
    """The maximum is subtracted before the division, which would overflow for tiny temperatures."""
    return torch.softmax((logits - logits.amax(dim=-1, keepdim=True)) / temperature, dim=-1)


def most_likely(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The top k of (batch, vocab_size), or all for 0, in descending order, and their ids; ties by the smaller id."""
    if not 0 < top_k < logits.shape[-1]:
        return logits.sort(dim=-1, descending=True, stable=True)
    kept, ids = logits.topk(top_k, dim=-1)
    if (logits >= (least := kept[:, -1:])).sum() > kept.numel():  # among ties, `topk` takes any
        remaining = top_k - (logits > least).sum(dim=-1, keepdim=True)
        tied = logits == least
        ranks = torch.where(tied, 1.0, 0.0).masked_fill_(logits > least, 2.0)
        ids = ranks.masked_fill_(tied & (tied.cumsum(dim=-1) > remaining), 0.0).topk(top_k, dim=-1).indices
    ids = ids.sort(dim=-1).values
    kept, order = logits.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return kept, ids.gather(-1, order)


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that occurred less likely (CTRL; Keskar et al., 2019).

    logits (..., vocab_size), seen (..., vocab_size) bool. Positive logits are divided by `penalty`, negative ones
    multiplied, up to the largest finite number; 1 changes nothing.
    """
    largest = torch.finfo(logits.dtype).max
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty).clamp(-largest, largest)
    return torch.where(seen & logits.isfinite(), penalized, logits)


def penalize_counts(logits: Tensor, counts: Tensor, presence: float, frequency: float) -> Tensor:
    """logits - presence · (counts > 0) - frequency · counts, as in OpenAI's API; negative penalties favour repetition.

    logits (..., vocab_size), counts (..., vocab_size): how often each token was generated.
    """
    return logits - presence * (counts > 0).to(counts.dtype) - frequency * counts
