"""From logits to the next token.

The probabilities are float64, which Apple's GPUs do not have: so they are computed on the CPU, and the same logits and
randomness give the same tokens on every device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from llamita.config import GenerationConfig
from llamita.randomness import key


class Sampler:
    """Picks the next token of every slot, by the settings of a `GenerationConfig`.

    Randomness is keyed by (config.seed, slot, number of the token), so a draw depends neither on the device nor on the
    other slots.

        seen   (slots, vocab_size) bool: the tokens that the repetition penalty makes less likely
    """

    def __init__(
        self, prompts: Sequence[Sequence[int]], vocab_size: int, config: GenerationConfig, end_id: int | None = None
    ):
        """`prompts`: the ids that each slot begins with. `end_id` begins every document, which is no repetition."""
        self.config, self.drawn = config, 0
        self.seen = torch.zeros(len(prompts), vocab_size, dtype=torch.bool)
        for slot, prompt in enumerate(prompts):
            self.seen[slot, list(prompt)] = True
        if end_id is not None:
            self.seen[:, end_id] = False

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (slots, vocab_size), on any device -> ids (slots,) int64, on the CPU."""
        config, logits = self.config, logits.cpu()
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
    """Sample one token a row: logits (batch, vocab_size) -> ids (batch,) int64, on the device of the logits.

    temperature   logits are divided by it; 0 takes the likeliest token
    top_k         only the k likeliest tokens remain (Fan et al., 2018); 0: all
    top_p         of those, only the fewest that together have this probability (nucleus; Holtzman et al., 2020)
    uniform       (batch,) in [0, 1): the randomness, one number a row; drawn from torch's generator where not given

    The same `uniform` gives the same tokens: a row's draw is where its number falls in the cumulated probabilities.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities, ids = _likeliest(torch.softmax(logits.cpu().double() / temperature, dim=-1), top_k)
    before = probabilities.cumsum(dim=-1) - probabilities  # of all tokens likelier than this one
    probabilities[before >= top_p * probabilities.sum(dim=-1, keepdim=True)] = 0.0
    cumulated = probabilities.cumsum(dim=-1)
    if uniform is None:
        uniform = torch.rand(len(logits), dtype=torch.float64)
    # The smallest place whose cumulated probability exceeds the draw; never one of probability 0.
    place = torch.searchsorted(cumulated, (uniform.cpu().double() * cumulated[:, -1]).unsqueeze(-1), right=True)
    place = place.clamp(max=(probabilities > 0).sum(dim=-1, keepdim=True) - 1)
    return ids.gather(-1, place).squeeze(-1).to(logits.device)


def _likeliest(probabilities: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest of (batch, vocab_size), or all for 0, falling, and their ids; of equals the smaller id first."""
    if not 0 < top_k < probabilities.shape[-1]:
        return probabilities.sort(dim=-1, descending=True, stable=True)
    kept, ids = probabilities.topk(top_k, dim=-1)
    if (probabilities >= (least := kept[:, -1:])).sum() > kept.numel():  # of equals, `topk` takes any
        room = top_k - (probabilities > least).sum(dim=-1, keepdim=True)
        equal = probabilities == least
        ids = probabilities.masked_fill(equal & (equal.cumsum(dim=-1) > room), -1.0).topk(top_k, dim=-1).indices
    ids = ids.sort(dim=-1).values
    kept, order = probabilities.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return kept, ids.gather(-1, order)


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that occurred less likely (CTRL; Keskar et al., 2019).

    logits (batch, vocab_size), seen (batch, vocab_size) bool. Positive logits are divided by `penalty`, negative ones
    multiplied; 1 changes nothing.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
