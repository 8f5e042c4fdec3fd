"""The LM head fused with its cross-entropy: logits are computed for one chunk of tokens at a time.

The gradient of cross-entropy is known as soon as the loss is:

    d loss / d logits = softmax(logits) - onehot(target)

so the forward pass turns each chunk of logits, in place and while it is in cache, into its share of both gradients, and
drops it (as in Liger Kernel; Hsu et al., 2024). Logits and their gradients are bf16, arithmetic on them is fp32, and
the weight gradient is accumulated in fp32.
"""

from typing import Any

import torch
from torch import Tensor

from llamita.jit.machine_code import ParallelKernel
from llamita.jit.pool import ARGS, NUM_ROWS
from llamita.jit.primitives import (
    F,
    bf16_ptr,
    chunk_end,
    exp,
    fp32_ptr,
    from_ordered_int,
    int64_ptr,
    load,
    log,
    next_chunk,
    ordered_int,
    store,
)
from llamita.ops.cpu.launch import check_bounds, is_fake, launch, once_differentiable
from llamita.ops.cpu.scratch import scratch
from llamita.targets import IGNORED

MAX_LOGITS = 1 << 23  # per chunk of tokens: 16 MB of bf16
MIN_TOKENS = 512  # per chunk: fewer make matrix products slow, and more additions to the weight gradient
ROWS_PER_CHUNK = 4  # rows of logits that a thread claims at a time
ELEMENTS_PER_CHUNK = 1 << 14  # of the weight gradient


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """-Σ ln softmax(hidden @ weight.T)[target], in nats, fp32 (); targets below 0 are ignored.

    hidden (tokens, hidden) bf16, weight (vocab_size, hidden) fp32, targets (tokens,) int64. Raises `IndexError` for a
    target outside the vocabulary.
    """
    targets = targets.long().contiguous()
    check_bounds(targets, IGNORED, len(weight) - 1, "a target")
    # Decide here: inside `forward` grad mode is off, and `needs_input_grad` is True even under no_grad.
    needs_grad = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    return _LinearCrossEntropy.apply(hidden.contiguous(), weight, targets, needs_grad)  # type: ignore[return-value]


def tokens_per_chunk(vocab_size: int) -> int:
    """Tokens whose logits exist at the same time. Depends on the vocabulary alone, since chunking affects rounding."""
    return max(MIN_TOKENS, MAX_LOGITS // vocab_size)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, needs_grad: bool) -> Tensor:
        weight_bf16, size = weight.to(hidden.dtype), tokens_per_chunk(len(weight))
        logits = scratch("logits", min(size, len(hidden)), len(weight), like=hidden)
        losses = torch.empty(len(hidden))
        grad_hidden = torch.empty_like(hidden) if needs_grad else None
        grad_weight = (torch.empty if len(hidden) else torch.zeros)(weight.shape) if needs_grad else None
        # With FakeTensors two chunks are enough: the others allocate the same memory.
        end = min(len(hidden), 2 * size) if is_fake(hidden) else len(hidden)
        for first in range(0, end, size):
            chunk = slice(first, min(first + size, end))
            d_logits = torch.mm(hidden[chunk], weight_bf16.T, out=logits[: chunk.stop - first])
            _loss_and_gradient(d_logits, targets[chunk], losses[chunk])
            if grad_hidden is not None and grad_weight is not None:
                torch.mm(d_logits, weight_bf16, out=grad_hidden[chunk])
                part = torch.mm(d_logits.T, hidden[chunk], out=scratch("d_weight", *weight.shape, like=hidden))
                _accumulate(grad_weight, part, first == 0)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        (scale,) = grad_outputs
        return grad_hidden.mul_(scale), grad_weight.mul_(scale).to(ctx.weight_dtype), None, None


def _loss_and_gradient(logits: Tensor, targets: Tensor, losses: Tensor) -> None:
    """Logits (tokens, vocab_size) -> their gradient in place, and the loss of each token."""
    launch(_cross_entropy, len(logits), ROWS_PER_CHUNK, logits, targets, losses, logits.shape[1])


def _accumulate(total: Tensor, part: Tensor, is_first: bool) -> None:
    """total (fp32) += part (bf16), or total = part for the first; torch would make an fp32 copy of the part."""
    launch(_add, total.numel(), ELEMENTS_PER_CHUNK, total, part, int(is_first))


@ParallelKernel
def _add(table):
    total, part, is_first = fp32_ptr(table[ARGS]), bf16_ptr(table[ARGS + 1]), table[ARGS + 2]
    first = next_chunk(table)
    while first < table[NUM_ROWS]:
        if is_first:
            for i in range(first, chunk_end(table, first)):
                total[i] = load(part, i)
        else:
            for i in range(first, chunk_end(table, first)):
                total[i] += load(part, i)
        first = next_chunk(table)


@ParallelKernel
def _cross_entropy(table):
    logits, targets, losses = bf16_ptr(table[ARGS]), int64_ptr(table[ARGS + 1]), fp32_ptr(table[ARGS + 2])
    vocab_size = table[ARGS + 3]
    first = next_chunk(table)
    while first < table[NUM_ROWS]:
        for row in range(first, chunk_end(table, first)):
            begin, target = row * vocab_size, targets[row]
            highest = ordered_int(logits, begin)
            for i in range(vocab_size):
                highest = max(highest, ordered_int(logits, begin + i))
            max_logit, total = from_ordered_int(highest), F(0.0)
            for i in range(vocab_size):
                total += exp(load(logits, begin + i) - max_logit)
            target_logit, scale = F(0.0), F(0.0)
            if target >= 0:
                scale = F(1.0) / total
                target_logit = load(logits, begin + target)
                losses[row] = log(total) + max_logit - target_logit
            else:
                losses[row] = F(0.0)
            for i in range(vocab_size):
                store(logits, begin + i, exp(load(logits, begin + i) - max_logit) * scale)
            if target >= 0:
                store(logits, begin + target, exp(target_logit - max_logit) * scale - F(1.0))
        first = next_chunk(table)
