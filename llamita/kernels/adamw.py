"""AdamW over all parameters in one pass: each number is read once and written once.

    m ← β1·m + (1 - β1)·g
    v ← β2·v + (1 - β2)·g²
    p ← p - lr·λ·p - lr · (m / (1 - β1ᵗ)) / (sqrt(v / (1 - β2ᵗ)) + ε)

The parameters lie wherever they are; a list of their addresses is cut into stretches of equal length, which the threads
take one after the other. So a thousand small parameters cost one call.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llamita.kernels.numbers import F, end_of, fp32s, fp64, int64s, sqrt, take_rows
from llamita.kernels.workers import FIRST_ARGUMENT, ROWS, exact_body, run

STRETCH = 1 << 14  # elements
PLAIN = Tensor, torch.nn.Parameter  # no subclass, which may have no memory of its own


@dataclass(frozen=True)
class Update:
    """One update of AdamW, but for the parameters: hyperparameters, and the number `step` of the update, from 1."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    step: int


Row = tuple[Tensor, Tensor, Tensor, Tensor]
"""A parameter, its gradient, m and v."""


def can_update(rows: Sequence[Row]) -> bool:
    """Whether these lie in memory as the loop reads them."""
    return all(lies_flat(tensor) for row in rows for tensor in row)


def lies_flat(tensor: Tensor) -> bool:
    """Whether this is fp32 numbers in the CPU's memory, without gaps."""
    return (
        type(tensor) in PLAIN
        and tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and tensor.is_contiguous()
    )


def adamw(rows: Sequence[Row], update: Update) -> None:
    """Update parameters, m and v in their place."""
    places = stretches([tuple(tensor.data_ptr() for tensor in row) for row in rows], [row[0].numel() for row in rows])
    rate, rest = update.lr / (1 - update.beta1**update.step), 1 - update.beta2**update.step
    kept = 1 - update.lr * update.weight_decay
    numbers = rate, rest, kept, update.beta1, update.beta2, update.eps
    run(_update, len(places), 1, places, *(float(number) for number in numbers))


def stretches(addresses: list[tuple[int, ...]], sizes: list[int]) -> np.ndarray:
    """(stretches, k + 1) int64: the k addresses of each stretch of fp32 numbers, and how many it has."""
    counts = [-(-size // STRETCH) for size in sizes]
    first = np.repeat(np.cumsum([0, *counts[:-1]]), counts)
    offsets = (np.arange(len(first)) - first) * STRETCH
    rows = np.repeat(np.array([(*where, size) for where, size in zip(addresses, sizes, strict=True)]), counts, axis=0)
    rows[:, :-1] += 4 * offsets[:, None]
    rows[:, -1] = np.minimum(rows[:, -1] - offsets, STRETCH)
    return np.ascontiguousarray(rows, dtype=np.int64)


@exact_body
def _update(table):
    a, places = FIRST_ARGUMENT, int64s(table[FIRST_ARGUMENT])
    rate, rest, kept = F(fp64(table[a + 1])), F(fp64(table[a + 2])), F(fp64(table[a + 3]))
    beta1, beta2, eps = F(fp64(table[a + 4])), F(fp64(table[a + 5])), F(fp64(table[a + 6]))
    new1, new2 = F(1.0 - fp64(table[a + 4])), F(1.0 - fp64(table[a + 5]))
    first = take_rows(table)
    while first < table[ROWS]:
        for row in range(first, end_of(table, first)):
            p, g = fp32s(places[5 * row]), fp32s(places[5 * row + 1])
            m, v = fp32s(places[5 * row + 2]), fp32s(places[5 * row + 3])
            for i in range(places[5 * row + 4]):
                slope = g[i]
                # From the nearer end, so that it ends there exactly: as torch's lerp does.
                mean = m[i] + (slope - m[i]) * new1 if new1 < F(0.5) else slope - (slope - m[i]) * beta1
                square = v[i] * beta2 + slope * slope * new2
                m[i], v[i] = mean, square
                p[i] = p[i] * kept - rate * mean / (sqrt(square / rest) + eps)
        first = take_rows(table)
