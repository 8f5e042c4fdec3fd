"""The loss of the head on any device, with the gradient by hand: logits are made for a chunk of tokens at a time.

The gradient of cross-entropy is known as soon as the loss is:

    d loss / d logits = softmax(logits) - onehot(target)

so the forward pass turns the logits of each chunk into its part of both gradients while they lie in the cache, and
drops them. (The idea is that of Liger Kernel; Hsu et al., 2024.)
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from llamita.ops.cpu.launch import first_order
from llamita.targets import IGNORED

CHUNK = 512  # tokens


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """`cross_entropy(hidden @ weight.T, targets, "sum")`, without ever holding all the logits.

    hidden (tokens, hidden), weight (vocab_size, hidden), targets (tokens,) -> () fp32.
    """
    # Read here: inside `forward` grad mode is off, and `needs_input_grad` is true even where no gradient is wanted.
    learning = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    return _LinearCrossEntropy.apply(hidden, weight, targets, learning)  # type: ignore[return-value]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, learning: bool) -> Tensor:
        nats = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if learning else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if learning else None
        for first in range(0, len(hidden), CHUNK):
            chunk = slice(first, first + CHUNK)
            logits = linear(hidden[chunk], weight)  # (chunk, vocab_size)
            loss, grad = _loss_and_gradient(logits.float(), targets[chunk])
            nats += loss
            if grad_hidden is not None and grad_weight is not None:
                grad = grad.to(logits.dtype)  # once, else autocast does it for both products
                grad_hidden[chunk] = grad @ weight
                grad_weight += grad.T @ hidden[chunk]
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return nats

    @staticmethod
    @first_order
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        (scale,) = grad_outputs
        return grad_hidden * scale.to(grad_hidden.dtype), (grad_weight * scale).to(ctx.weight_dtype), None, None


def _loss_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The summed loss, and its gradient by the logits (chunk, vocab_size), computed in place."""
    counted = (targets != IGNORED).unsqueeze(-1)  # (chunk, 1)
    chosen = targets.clamp(min=0).unsqueeze(-1)
    logits.sub_(logits.amax(dim=-1, keepdim=True))
    wanted = logits.gather(-1, chosen)  # (chunk, 1)
    weights = logits.exp_()
    total = weights.sum(dim=-1, keepdim=True)
    grad = weights.mul_(counted / total)
    grad.scatter_add_(-1, chosen, -counted.float())
    return torch.where(counted, total.log() - wanted, 0.0).sum(), grad
