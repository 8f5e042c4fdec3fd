"""Cross-entropy, and the head that ends a model in it."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from llamita.targets import IGNORED

Reduction = Literal["mean", "sum", "none"]


def cross_entropy(logits: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """-ln softmax(logits)[target], in nats, computed in fp32.

    logits (..., vocab_size), targets (...) int64; targets of -100 are ignored. `reduction`: "mean" over the targets
    that count, "sum" of them, or "none": one value a target, 0 where ignored. A mean over no target is nan.
    """
    counted = targets != IGNORED
    wide = logits.float()
    wide = wide - wide.detach().amax(dim=-1, keepdim=True)  # a shift means nothing to softmax, but much to rounding
    chosen = wide.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    nats = torch.where(counted, torch.logsumexp(wide, dim=-1) - chosen, 0.0)  # (...)
    if reduction == "none":
        return nats
    return nats.sum() if reduction == "sum" else nats.sum() / counted.sum()


class LMHead(nn.Module):
    """The last layer: hidden states to logits, or, where targets are given, to the loss.

    It is a module of its own so that a loss can live here that never holds all the logits at once.
    """

    def __init__(self, hidden_size: int, vocab_size: int, weight: Tensor | None = None):
        """`weight` (vocab_size, hidden_size): the embedding's, where the two are tied."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size)) if weight is None else weight
        self.kernel: Callable[[Tensor, Tensor, Tensor], Tensor] = linear_cross_entropy

    def forward(self, hidden: Tensor, targets: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
        """hidden (batch, seq, hidden) -> logits (batch, seq, vocab_size), or the loss in nats."""
        if targets is None:
            return linear(hidden, self.weight)
        if reduction == "none":
            return cross_entropy(linear(hidden, self.weight), targets, reduction)
        total = self.kernel(hidden.flatten(0, -2), self.weight, targets.flatten())
        return total if reduction == "sum" else total / (targets != IGNORED).sum()


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """`cross_entropy(hidden @ weight.T, targets, "sum")`, without ever holding all the logits.

    hidden (tokens, hidden), weight (vocab_size, hidden), targets (tokens,) -> () fp32.
    """
    # Asked here: within `forward` nobody learns, and `needs_input_grad` says yes even where nobody does.
    learning = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    return _LinearCrossEntropy.apply(hidden, weight, targets, learning)  # type: ignore[return-value]


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradient of cross-entropy is known as soon as the loss is:

        d loss / d logits = softmax(logits) - onehot(target)

    so the forward pass turns each slice of logits into its share of both gradients while it lies in the processor's
    cache, and forgets it. (The idea is that of Liger Kernel; Hsu et al., 2024.)
    """

    TOKENS_AT_ONCE = 512

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, learning: bool) -> Tensor:
        nats = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if learning else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if learning else None
        for first in range(0, len(hidden), _LinearCrossEntropy.TOKENS_AT_ONCE):
            rows = slice(first, first + _LinearCrossEntropy.TOKENS_AT_ONCE)
            logits = linear(hidden[rows], weight)  # (rows, vocab_size)
            loss, slope = _loss_and_slope(logits.float(), targets[rows])
            nats += loss
            if grad_hidden is not None and grad_weight is not None:
                slope = slope.to(logits.dtype)  # once, else autocast does it for both products
                grad_hidden[rows] = slope @ weight
                grad_weight += slope.T @ hidden[rows]
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return nats

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        (scale,) = grad_outputs
        return grad_hidden * scale.to(grad_hidden.dtype), (grad_weight * scale).to(ctx.weight_dtype), None, None


def _loss_and_slope(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The summed loss, and its gradient by the logits (rows, vocab_size), made in their place."""
    counted = (targets != IGNORED).unsqueeze(-1)  # (rows, 1)
    chosen = targets.clamp(min=0).unsqueeze(-1)
    logits.sub_(logits.amax(dim=-1, keepdim=True))
    wanted = logits.gather(-1, chosen)  # (rows, 1)
    weights = logits.exp_()
    total = weights.sum(dim=-1, keepdim=True)
    slope = weights.mul_(counted / total)
    slope.scatter_add_(-1, chosen, -counted.float())
    return torch.where(counted, total.log() - wanted, 0.0).sum(), slope
