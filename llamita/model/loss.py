"""The LM head: hidden states to logits, or to the loss."""

import torch
from torch import Tensor, nn

from llamita import ops
from llamita.ops import Reduction
from llamita.targets import IGNORED


class LMHead(nn.Module):
    """The last layer: hidden states to logits, or to the cross-entropy if targets are given.

    The loss is computed in the head, so that the logits of all tokens never have to be in memory together.
    """

    def __init__(self, hidden_size: int, vocab_size: int, weight: Tensor | None = None):
        """`weight` (vocab_size, hidden_size): that of the embedding, with tied embeddings."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size)) if weight is None else weight

    def forward(self, hidden: Tensor, targets: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
        """hidden (batch, seq, hidden) -> logits (batch, seq, vocab_size), or the loss in nats."""
        if targets is None:
            return ops.linear(hidden, self.weight)
        if reduction == "none":
            return ops.cross_entropy(ops.linear(hidden, self.weight), targets, reduction)
        total = ops.linear_cross_entropy(hidden.flatten(0, -2), self.weight, targets.flatten())
        return total if reduction == "sum" else total / (targets != IGNORED).sum()
