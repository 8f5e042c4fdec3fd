"""The head and its loss together: logits are made for a chunk of tokens at a time, and never held whole.

The gradient of cross-entropy is known as soon as the loss is:

    d loss / d logits = softmax(logits) - onehot(target)

so the forward pass turns each chunk of logits, in place, into its part of both gradients while it lies in the cache,
and drops it. (The idea is that of Liger Kernel; Hsu et al., 2024.) Logits and their gradients are bf16, what is
computed of them is fp32, and the gradient of the weights is summed in fp32.
"""

from typing import Any

import torch
from torch import Tensor

from llamita.jit.machine_code import Body
from llamita.jit.numbers import (
    F,
    bf16s,
    end_of,
    exp,
    fp32s,
    in_order,
    int64s,
    load,
    log,
    order,
    store,
    take_rows,
)
from llamita.jit.pool import FIRST_ARGUMENT, ROWS
from llamita.ops.cpu.launch import first_order, has_no_values, require_within, run
from llamita.ops.cpu.scratch import scratch
from llamita.targets import IGNORED

LOGITS = 1 << 23  # in a chunk of tokens: 16 MB of bf16
LEAST_TOKENS = 512  # in a chunk: fewer make slow matrix products, and more additions to the gradient of the weights
ROWS_PER_CHUNK = 4  # of logits, that a thread takes at a time
ADDED_PER_CHUNK = 1 << 14


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """-Σ ln softmax(hidden @ weight.T)[target], in nats, fp32 (); targets below 0 are ignored.

    hidden (tokens, hidden) bf16, weight (vocab_size, hidden) fp32, targets (tokens,) int64. Raises `IndexError` for a
    target outside of the vocabulary.
    """
    targets = targets.long().contiguous()
    require_within(targets, IGNORED, len(weight) - 1, "a target")
    # Read here: inside `forward` grad mode is off, and `needs_input_grad` is true even where no gradient is wanted.
    learning = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    return _LinearCrossEntropy.apply(hidden.contiguous(), weight, targets, learning)  # type: ignore[return-value]


def tokens_per_chunk(vocab_size: int) -> int:
    """How many tokens have their logits at once: a function of the vocabulary alone, since sums round by chunks."""
    return max(LEAST_TOKENS, LOGITS // vocab_size)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, learning: bool) -> Tensor:
        narrow, size = weight.to(hidden.dtype), tokens_per_chunk(len(weight))
        logits = scratch("logits", min(size, len(hidden)), len(weight), like=hidden)
        nats = torch.empty(len(hidden))
        grad_hidden = torch.empty_like(hidden) if learning else None
        grad_weight = (torch.empty if len(hidden) else torch.zeros)(weight.shape) if learning else None
        # Of FakeTensors two chunks are enough: the others take the same memory.
        end = min(len(hidden), 2 * size) if has_no_values(hidden) else len(hidden)
        for first in range(0, end, size):
            chunk = slice(first, min(first + size, end))
            d_logits = torch.mm(hidden[chunk], narrow.T, out=logits[: chunk.stop - first])
            _loss_and_gradient(d_logits, targets[chunk], nats[chunk])
            if grad_hidden is not None and grad_weight is not None:
                torch.mm(d_logits, narrow, out=grad_hidden[chunk])
                part = torch.mm(d_logits.T, hidden[chunk], out=scratch("d_weight", *weight.shape, like=hidden))
                _accumulate(grad_weight, part, first == 0)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return nats.sum()

    @staticmethod
    @first_order
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        (scale,) = grad_outputs
        return grad_hidden.mul_(scale), grad_weight.mul_(scale).to(ctx.weight_dtype), None, None


def _loss_and_gradient(logits: Tensor, targets: Tensor, nats: Tensor) -> None:
    """Logits (tokens, vocab_size) -> their gradient in place, and the loss of each token."""
    run(_cross_entropy, len(logits), ROWS_PER_CHUNK, logits, targets, nats, logits.shape[1])


def _accumulate(total: Tensor, part: Tensor, is_first: bool) -> None:
    """Add a part in bf16 to a total in fp32, or begin the total with it; torch would make an fp32 copy of the part."""
    run(_add, total.numel(), ADDED_PER_CHUNK, total, part, int(is_first))


@Body
def _add(table):
    total, part, is_first = fp32s(table[FIRST_ARGUMENT]), bf16s(table[FIRST_ARGUMENT + 1]), table[FIRST_ARGUMENT + 2]
    first = take_rows(table)
    while first < table[ROWS]:
        if is_first:
            for i in range(first, end_of(table, first)):
                total[i] = load(part, i)
        else:
            for i in range(first, end_of(table, first)):
                total[i] += load(part, i)
        first = take_rows(table)


@Body
def _cross_entropy(table):
    logits, targets, nats = (
        bf16s(table[FIRST_ARGUMENT]),
        int64s(table[FIRST_ARGUMENT + 1]),
        fp32s(table[FIRST_ARGUMENT + 2]),
    )
    size = table[FIRST_ARGUMENT + 3]
    first = take_rows(table)
    while first < table[ROWS]:
        for row in range(first, end_of(table, first)):
            begin, target = row * size, targets[row]
            highest = order(logits, begin)
            for i in range(size):
                highest = max(highest, order(logits, begin + i))
            largest, total = in_order(highest), F(0.0)
            for i in range(size):
                total += exp(load(logits, begin + i) - largest)
            wanted, share = F(0.0), F(0.0)
            if target >= 0:
                share = F(1.0) / total
                wanted = load(logits, begin + target)
                nats[row] = log(total) + largest - wanted
            else:
                nats[row] = F(0.0)
            for i in range(size):
                store(logits, begin + i, exp(load(logits, begin + i) - largest) * share)
            if target >= 0:
                store(logits, begin + target, exp(wanted - largest) * share - F(1.0))
        first = take_rows(table)
