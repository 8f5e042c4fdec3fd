"""How well a model predicts with how much context: the loss at each position."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from llamita.data import IGNORED, Windows
from llamita.evaluate.loss import Evaluation, Precision, scored_batches
from llamita.model import Llama

LOGITS_PER_BATCH = 1 << 24  # per-target losses need all logits of a batch in memory: 64 MiB in fp32


@dataclass(frozen=True)
class PositionLosses:
    """Scores by position: `nats` (context,) float64, summed over `targets` (context,) int64.

    At position p the model predicts from p + 1 tokens. `bytes` is the text of all targets together.
    """

    nats: np.ndarray
    targets: np.ndarray
    bytes: int

    @property
    def total(self) -> Evaluation:
        """All positions together."""
        return Evaluation(float(self.nats.sum()), int(self.targets.sum()), self.bytes)

    def means(self) -> np.ndarray:
        """(context,) float64: nats per token at each position; NaN where nothing was scored."""
        return _mean(self.nats, self.targets)

    def by_doubling(self) -> list[tuple[int, int, float]]:
        """(fewest tokens seen, most, nats per token) for 1, 2 to 3, 4 to 7, … tokens; without unscored groups.

        A single position may have few targets, and a noisy mean; doubling groups have more.
        """
        starts = 1 << np.arange(len(self.nats).bit_length())
        nats = np.add.reduceat(self.nats, starts - 1)
        targets = np.add.reduceat(self.targets, starts - 1)
        last = np.minimum(2 * starts - 1, len(self.nats))
        rows = zip(starts.tolist(), last.tolist(), _mean(nats, targets).tolist(), targets.tolist(), strict=True)
        return [(first, end, loss) for first, end, loss, count in rows if count]


@torch.no_grad()
def evaluate_positions(
    model: Llama,
    windows: Windows,
    byte_lengths: np.ndarray,
    indices: np.ndarray | None = None,
    precision: Precision = nullcontext,
    progress: Callable[[int, int], None] | None = None,
) -> PositionLosses:
    """Score `windows` as `evaluate_loss` does, each target once, by position in the context.

    `progress` is called with (windows scored so far, total windows).
    """
    context = model.config.max_seq_len
    lengths = torch.from_numpy(np.asarray(byte_lengths, dtype=np.int64))
    nats, targets, num_bytes = torch.zeros(context, dtype=torch.float64), torch.zeros(context, dtype=torch.int64), 0
    done, total = 0, len(windows) if indices is None else len(indices)
    tokens_per_batch = LOGITS_PER_BATCH // model.config.vocab_size
    for batch, losses in scored_batches(model, windows, indices, precision, "none", tokens_per_batch):
        counted = batch.targets != IGNORED  # (batch, seq), as losses are; seq may be less than the context
        nats[: counted.shape[1]] += losses.cpu().double().sum(dim=0)
        targets[: counted.shape[1]] += counted.sum(dim=0)
        num_bytes += int(lengths[batch.targets[counted]].sum())
        done += len(batch.ids)
        if progress is not None:
            progress(done, total)
    return PositionLosses(nats.numpy(), targets.numpy(), num_bytes)


def _mean(nats: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.where(targets > 0, nats / np.maximum(targets, 1), np.nan)
