"""How well a model predicts text: loss, perplexity, bits per byte."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llamita.data import IGNORED, Batch, Windows
from llamita.model import Llama
from llamita.ops import Reduction

TOKENS_AT_ONCE = 8192
COUNTED_AT_ONCE = 1 << 20

Precision = Callable[[], AbstractContextManager[object]]
"""Makes the context of each forward pass."""


@dataclass(frozen=True)
class Evaluation:
    """What was scored: the summed surprise, in nats, over how many targets, which stand for how many bytes of text."""

    nats: float
    targets: int
    bytes: int

    @property
    def loss(self) -> float:
        """Mean cross-entropy, in nats per token."""
        return self.nats / self.targets

    @property
    def perplexity(self) -> float:
        """exp(loss): among how many equally likely tokens the model hesitates."""
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Σ nats / (ln 2 · bytes): comparable between tokenizers. Special tokens surprise, but have no bytes."""
        return self.nats / (math.log(2) * self.bytes) if self.bytes else math.nan


@torch.no_grad()
def evaluate_loss(
    model: Llama,
    windows: Windows,
    byte_lengths: np.ndarray,
    indices: np.ndarray | None = None,
    precision: Precision = nullcontext,
) -> Evaluation:
    """Score `windows` (those of `indices`, or all), each target once, with the model in evaluation mode.

    `indices` (windows,) int64; `byte_lengths` (vocab_size,): the bytes of text each id stands for, as of
    a tokenizer; `precision` makes the context of each forward pass (default: that of the weights).
    """
    lengths = torch.from_numpy(np.asarray(byte_lengths, dtype=np.int64))
    total, targets, num_bytes = 0.0, 0, 0
    for batch, nats in scored_batches(model, windows, indices, precision, "sum", TOKENS_AT_ONCE):
        counted = batch.targets[batch.targets != IGNORED]
        total += nats.item()
        targets += len(counted)
        num_bytes += int(lengths[counted].sum())
    return Evaluation(total, targets, num_bytes)


def scored_batches(
    model: Llama,
    windows: Windows,
    indices: np.ndarray | None,
    precision: Precision,
    reduction: Reduction,
    tokens_at_once: int,
) -> Iterator[tuple[Batch, Tensor]]:
    """The windows (those of `indices`, or all) batch by batch, each with its loss in nats, reduced as asked.

    The model is in evaluation mode meanwhile.
    """
    device = next(model.parameters()).device
    indices = np.arange(len(windows)) if indices is None else indices
    size = max(1, tokens_at_once // model.config.max_seq_len)
    was_training = model.training
    model.eval()
    for first in range(0, len(indices), size):
        batch = windows.batch(indices[first : first + size])
        moved = batch.to(device)
        with precision():
            nats = model(moved.ids, moved.targets, reduction=reduction)
        yield batch, nats
    model.train(was_training)


def spread(count: int, wanted: int) -> np.ndarray:
    """The numbers of `wanted` of `count` windows, evenly spread; all where `wanted` is 0 or more than there are."""
    if wanted == 0 or wanted >= count:
        return np.arange(count)
    return np.arange(wanted, dtype=np.int64) * count // wanted


def unigram_entropy(ids: np.ndarray, vocab_size: int) -> float:
    """-Σ p ln p, in nats per token: the loss of a model that knows only how frequent each of `ids` (tokens,) is."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for start in range(0, len(ids), COUNTED_AT_ONCE):  # bincount makes int64 of all that it is given
        counts += np.bincount(ids[start : start + COUNTED_AT_ONCE], minlength=vocab_size)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
