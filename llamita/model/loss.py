"""Cross-entropy, and the head that ends a model in it."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

IGNORED = -100
"""A target of this value is not scored."""

Reduction = Literal["mean", "sum", "none"]


def cross_entropy(logits: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """-ln softmax(logits)[target], in nats, computed in fp32.

    logits (..., vocab_size), targets (...) int64; targets of -100 are ignored. `reduction`: "mean" over the targets
    that count, "sum" of them, or "none": one value a target, 0 where ignored. A mean over no target is nan.
    """
    counted = targets != IGNORED
    wide = logits.float()
    chosen = wide.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    nats = torch.where(counted, torch.logsumexp(wide, dim=-1) - chosen, 0.0)  # (...)
    if reduction == "none":
        return nats
    return nats.sum() if reduction == "sum" else nats.sum() / counted.sum()


class LMHead(nn.Module):
    """The last layer: hidden states to logits, or, where targets are given, to the loss.

    It is a module of its own so that a loss which never holds all the logits can take its place.
    """

    def __init__(self, hidden_size: int, vocab_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))

    def forward(self, hidden: Tensor, targets: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
        """hidden (batch, seq, hidden) -> logits (batch, seq, vocab_size), or the loss in nats."""
        logits = linear(hidden, self.weight)
        return logits if targets is None else cross_entropy(logits, targets, reduction)
