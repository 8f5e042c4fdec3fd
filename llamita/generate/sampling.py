"""From logits to the next token."""

import torch
from torch import Tensor


def sample_logits(
    logits: Tensor,
    *,
    temperature: float = 0.8,
    top_k: int = 50,
    top_p: float = 1.0,
    uniform: Tensor | None = None,
) -> Tensor:
    """Draw one token a row: logits (batch, vocab_size) -> ids (batch,) int64.

    temperature   logits are divided by it; 0 takes the likeliest token
    top_k         only the k likeliest tokens remain (Fan et al., 2018); 0: all
    top_p         of those, only the fewest that together have this probability (nucleus; Holtzman et al., 2020)
    uniform       (batch,) in [0, 1): the randomness, one number a row; drawn from torch's generator where not given

    The same `uniform` gives the same tokens: a row's draw is where its number falls in the cumulated probabilities.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities, ids = _likeliest(torch.softmax(logits.double() / temperature, dim=-1), top_k)
    before = probabilities.cumsum(dim=-1) - probabilities  # of all tokens likelier than this one
    probabilities[before >= top_p * probabilities.sum(dim=-1, keepdim=True)] = 0.0
    cumulated = probabilities.cumsum(dim=-1)
    if uniform is None:
        uniform = torch.rand(len(logits), dtype=torch.float64, device=logits.device)
    # The smallest place whose cumulated probability exceeds the draw; never one of probability 0.
    place = torch.searchsorted(cumulated, (uniform.double() * cumulated[:, -1]).unsqueeze(-1), right=True)
    return ids.gather(-1, place.clamp(max=(probabilities > 0).sum(dim=-1, keepdim=True) - 1)).squeeze(-1)


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
