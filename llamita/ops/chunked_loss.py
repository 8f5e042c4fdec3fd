"""The LM head fused with its cross-entropy, on any device: logits are computed for one chunk of tokens at a time.

The gradient of cross-entropy is known as soon as the loss is:

    d loss / d logits = softmax(logits) - onehot(target)

so the forward pass turns each chunk of logits into its share of both gradients while it is in cache, and drops it (as
in Liger Kernel; Hsu et al., 2024).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from llamita.ops.cpu.launch import once_differentiable
from llamita.targets import IGNORED

CHUNK = 512  # tokens


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """`cross_entropy(hidden @ weight.T, targets, "sum")`, without materializing all logits.

    hidden (tokens, hidden), weight (vocab_size, hidden), targets (tokens,) -> () fp32.
    """
    # Decide here: inside `forward` grad mode is off, and `needs_input_grad` is True even under no_grad.
    needs_grad = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    return _LinearCrossEntropy.apply(hidden, weight, targets, needs_grad)  # type: ignore[return-value]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, needs_grad: bool) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if needs_grad else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_grad else None
        for first in range(0, len(hidden), CHUNK):
            chunk = slice(first, first + CHUNK)
            logits = linear(hidden[chunk], weight)  # (chunk, vocab_size)
            loss, grad = _loss_and_gradient(logits.float(), targets[chunk])
            total += loss
            if grad_hidden is not None and grad_weight is not None:
                grad = grad.to(logits.dtype)  # once, else autocast casts it for both products
                grad_hidden[chunk] = grad @ weight
                grad_weight += grad.T @ hidden[chunk]
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        (scale,) = grad_outputs
        return grad_hidden * scale.to(grad_hidden.dtype), (grad_weight * scale).to(ctx.weight_dtype), None, None


def _loss_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The summed loss, and its gradient with respect to the logits (chunk, vocab_size), computed in place."""
    counted = (targets != IGNORED).unsqueeze(-1)  # (chunk, 1)
    index = targets.clamp(min=0).unsqueeze(-1)
    logits.sub_(logits.amax(dim=-1, keepdim=True))
    target_logits = logits.gather(-1, index)  # (chunk, 1)
    exponentials = logits.exp_()
    total = exponentials.sum(dim=-1, keepdim=True)
    grad = exponentials.mul_(counted / total)
    grad.scatter_add_(-1, index, -counted.float())
    return torch.where(counted, total.log() - target_logits, 0.0).sum(), grad
