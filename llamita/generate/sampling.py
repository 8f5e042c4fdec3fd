"""From logits to the next token.

Probabilities are float64, which Apple's GPUs lack: so they are computed on the CPU, and the same logits and randomness
give the same tokens on every device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from llamita.config import GenerationConfig
from llamita.randomness import key


class Sampler:
    """Samples the next token of every slot, by the settings of a `GenerationConfig`.

    Randomness is keyed by (config.seed, slot, number of the token), so it depends neither on the device nor on the
    other slots.

        seen      (slots, vocab_size) bool: the tokens that the repetition penalty makes less likely
        assigned  (vocab_size,) bool: the ids that may be sampled; None: all
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        vocab_size: int,
        config: GenerationConfig,
        end_id: int | None = None,
        assigned: Tensor | None = None,
    ):
        """`prompts`: the ids that each slot begins with. `end_id` begins every document, which is no repetition."""
        self.config, self.drawn, self.assigned = config, 0, assigned
        self.seen = torch.zeros(len(prompts), vocab_size, dtype=torch.bool)
        for slot, prompt in enumerate(prompts):
            self.seen[slot, list(prompt)] = True
        if end_id is not None:
            self.seen[:, end_id] = False

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (slots, vocab_size), on any device -> ids (slots,) int64, on the CPU."""
        config, logits = self.config, logits.cpu().double()
        if self.assigned is not None:
            logits = logits.masked_fill(~self.assigned, -torch.inf)
        if config.repetition_penalty != 1:
            logits = penalize_repetition(logits, self.seen, config.repetition_penalty)
        uniform = [key(config.seed, "sample", slot, self.drawn) / 2**63 for slot in range(len(logits))]
        ids = sample_logits(
            logits,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            uniform=torch.tensor(uniform, dtype=torch.float64),
        )
        self.seen[torch.arange(len(ids)), ids] = True
        self.drawn += 1
        return ids


def sample_logits(
    logits: Tensor,
    *,
    temperature: float = 0.8,
    top_k: int = 50,
    top_p: float = 1.0,
    uniform: Tensor | None = None,
) -> Tensor:
    """Sample one token per row: logits (batch, vocab_size) -> ids (batch,) int64, on the device of the logits.

    temperature   divides the logits; 0 is greedy decoding
    top_k         keep the k most likely tokens (Fan et al., 2018); 0: all
    top_p         of those, keep the fewest with this total probability (nucleus; Holtzman et al., 2020)
    uniform       (batch,) in [0, 1): the randomness, a number per row; from torch's generator if not given

    The same `uniform` gives the same tokens: it is looked up in the cumulative distribution of its row.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities, ids = _most_likely(_softmax(logits.cpu().double(), temperature), top_k)
    before = probabilities.cumsum(dim=-1) - probabilities  # of all tokens more likely than this one
    dropped = before >= top_p * probabilities.sum(dim=-1, keepdim=True)
    dropped[:, 0] = False  # however small top_p is
    cumulative = probabilities.masked_fill_(dropped, 0.0).cumsum(dim=-1)
    if uniform is None:
        uniform = torch.rand(len(logits), dtype=torch.float64)
    # The first place whose cumulative probability exceeds the number; never one of probability 0.
    place = torch.searchsorted(cumulative, (uniform.cpu().double() * cumulative[:, -1]).unsqueeze(-1), right=True)
    place = place.clamp(max=(probabilities > 0).sum(dim=-1, keepdim=True) - 1)
    return ids.gather(-1, place).squeeze(-1).to(logits.device)


def _softmax(logits: Tensor, temperature: float) -> Tensor:
    """The maximum is subtracted before the division, which would overflow for tiny temperatures."""
    return torch.softmax((logits - logits.amax(dim=-1, keepdim=True)) / temperature, dim=-1)


def _most_likely(probabilities: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The top k of (batch, vocab_size), or all for 0, in descending order, and their ids; ties by the smaller id."""
    if not 0 < top_k < probabilities.shape[-1]:
        return probabilities.sort(dim=-1, descending=True, stable=True)
    kept, ids = probabilities.topk(top_k, dim=-1)
    if (probabilities >= (least := kept[:, -1:])).sum() > kept.numel():  # among ties, `topk` takes any
        remaining = top_k - (probabilities > least).sum(dim=-1, keepdim=True)
        tied = probabilities == least
        ids = probabilities.masked_fill(tied & (tied.cumsum(dim=-1) > remaining), -1.0).topk(top_k, dim=-1).indices
    ids = ids.sort(dim=-1).values
    kept, order = probabilities.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return kept, ids.gather(-1, order)


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that occurred less likely (CTRL; Keskar et al., 2019).

    logits (batch, vocab_size), seen (batch, vocab_size) bool. Positive logits are divided by `penalty`, negative ones
    multiplied, up to the largest finite number; 1 changes nothing.
    """
    largest = torch.finfo(logits.dtype).max
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty).clamp(-largest, largest)
    return torch.where(seen, penalized, logits)
