"""The head and its loss together: logits are made a slice of tokens at a time, and never held whole.

The gradient of cross-entropy is known as soon as the loss is:

    d loss / d logits = softmax(logits) - onehot(target)

so the forward pass turns each slice of logits, in its place, into its share of both gradients while it lies in the
processor's cache, and forgets it. (The idea is that of Liger Kernel; Hsu et al., 2024.) Logits and slopes are bf16,
what is computed of them is fp32, and the gradient of the weights is added up in fp32.
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
from llamita.ops.cpu.launch import has_no_values, require_within, run
from llamita.ops.cpu.workspace import scratch
from llamita.targets import IGNORED

LOGITS = 1 << 23  # of a slice, where nobody says how many tokens it has: 16 MB of bf16
LEAST_TOKENS = 512  # then: fewer make poor matrix products, and as many additions to the gradient of the weights
AT_ONCE = 4  # rows of logits
ADDED_AT_ONCE = 1 << 14


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, tokens: int = 0) -> Tensor:
    """-Σ ln softmax(hidden @ weight.T)[target], in nats, fp32 (); targets below 0 are ignored.

    hidden (tokens, hidden) bf16, weight (vocab_size, hidden) fp32, targets (tokens,) int64. A slice has so many
    `tokens`, for 0 as many as `tokens_of_slice` says. Raises `IndexError` for a target outside of the vocabulary.
    """
    targets = targets.long().contiguous()
    require_within(targets, IGNORED, len(weight) - 1, "a target")
    # Asked here: within `forward` nobody learns, and `needs_input_grad` says yes even where nobody does.
    learning = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    at_once = tokens or tokens_of_slice(len(weight))
    return _LinearCrossEntropy.apply(hidden, weight, targets, at_once, learning)  # type: ignore[return-value]


def tokens_of_slice(vocab_size: int) -> int:
    """How many tokens have their logits at once, where nobody says how many."""
    return max(LEAST_TOKENS, LOGITS // vocab_size)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, at_once: int, learning: bool) -> Tensor:
        narrow = weight.to(hidden.dtype)  # used by every slice: not in the workspace, where the layers' weights are
        logits = scratch("joined", min(at_once, len(hidden)), len(weight), like=hidden)
        nats = torch.empty(len(hidden))
        grad_hidden = torch.empty_like(hidden) if learning else None
        grad_weight = (torch.empty if len(hidden) else torch.zeros)(weight.shape) if learning else None
        # Without values, slices only tell what memory they take, and behind the second all take the same.
        end = min(len(hidden), 2 * at_once) if has_no_values(hidden) else len(hidden)
        for first in range(0, end, at_once):
            rows = slice(first, min(first + at_once, end))
            slopes = torch.mm(hidden[rows], narrow.T, out=logits[: rows.stop - first])
            _descend(slopes, targets[rows], nats[rows])
            if grad_hidden is not None and grad_weight is not None:
                torch.mm(slopes, narrow, out=grad_hidden[rows])
                part = torch.mm(slopes.T, hidden[rows], out=scratch("apart", *weight.shape, like=hidden))
                _add_up(grad_weight, part, first == 0)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return nats.sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        (scale,) = grad_outputs
        return grad_hidden.mul_(scale), grad_weight.mul_(scale).to(ctx.weight_dtype), None, None, None


def _descend(logits: Tensor, targets: Tensor, nats: Tensor) -> None:
    """Logits (tokens, vocab_size) -> their slopes in their place, and the loss of each token."""
    run(_slopes, len(logits), AT_ONCE, logits, targets, nats, logits.shape[1])


def _add_up(total: Tensor, part: Tensor, is_first: bool) -> None:
    """Add a part in bf16 to a total in fp32; torch would make an fp32 copy of it."""
    run(_add, total.numel(), ADDED_AT_ONCE, total, part, int(is_first))


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
def _slopes(table):
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
