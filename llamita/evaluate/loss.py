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

TOKENS_PER_BATCH = 8192
COUNTING_CHUNK = 1 << 20

Precision = Callable[[], AbstractContextManager[object]]
"""Returns the context of a forward pass."""


@dataclass(frozen=True)
class Evaluation:
    """The summed cross-entropy in nats, the number of targets, and the bytes of text that they represent."""

    nats: float
    targets: int
    bytes: int

    @property
    def loss(self) -> float:
        """Mean cross-entropy, in nats per token."""
        return self.nats / self.targets

    @property
    def perplexity(self) -> float:
        """exp(loss): the model is as uncertain as among this many equally likely tokens."""
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Σ nats / (ln 2 · bytes): comparable between tokenizers. Special tokens add nats, but no bytes."""
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

    `indices` (windows,) int64; `byte_lengths` (vocab_size,): the bytes of text of each id, from a tokenizer;
    `precision` returns the context of each forward pass (default: the precision of the weights).
    """
    lengths = torch.from_numpy(np.asarray(byte_lengths, dtype=np.int64))
    total, targets, num_bytes = 0.0, 0, 0
    for batch, nats in scored_batches(model, windows, indices, precision, "sum", TOKENS_PER_BATCH):
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
    tokens_per_batch: int,
) -> Iterator[tuple[Batch, Tensor]]:
    """Batches of the windows (those of `indices`, or all), each with its loss in nats, reduced by `reduction`.

    The model is in evaluation mode meanwhile.
    """
    device = next(model.parameters()).device
    indices = np.arange(len(windows)) if indices is None else indices
    size = max(1, tokens_per_batch // model.config.max_seq_len)
    was_training = model.training
    model.eval()
    for first in range(0, len(indices), size):
        batch = windows.batch(indices[first : first + size])
        moved = batch.to(device)
        with precision():
            nats = model(moved.ids, moved.targets, reduction=reduction)
        yield batch, nats
    model.train(was_training)


def evenly_spaced(count: int, size: int) -> np.ndarray:
    """Indices of `size` evenly spaced windows of `count`; all of them if `size` is 0 or more than `count`."""
    if size == 0 or size >= count:
        return np.arange(count)
    return np.arange(size, dtype=np.int64) * count // size


def unigram_entropy(ids: np.ndarray, vocab_size: int) -> float:
    """-Σ p ln p, in nats per token: the loss of a model that knows only the frequency of each of `ids` (tokens,)."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for start in range(0, len(ids), COUNTING_CHUNK):  # bincount converts its whole input to int64
        counts += np.bincount(ids[start : start + COUNTING_CHUNK], minlength=vocab_size)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
