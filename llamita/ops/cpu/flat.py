"""Tensors of fp32 numbers as the loops of the optimizer see them: stretches of memory, wherever these lie."""

import numpy as np
import torch
from torch import Tensor

STRETCH = 1 << 14  # elements
PLAIN = Tensor, torch.nn.Parameter  # no subclass, which may have no memory of its own


def lies_flat(tensor: Tensor) -> bool:
    """Whether this is fp32 numbers in the CPU's memory, without gaps."""
    return type(tensor) in PLAIN and tensor.is_cpu and tensor.dtype == torch.float32 and tensor.is_contiguous()


def stretches(addresses: list[tuple[int, ...]], sizes: list[int]) -> np.ndarray:
    """(stretches, k + 1) int64: the k addresses of each stretch of fp32 numbers, and how many it has."""
    counts = [-(-size // STRETCH) for size in sizes]
    first = np.repeat(np.cumsum([0, *counts[:-1]]), counts)
    offsets = (np.arange(len(first)) - first) * STRETCH
    rows = np.repeat(np.array([(*where, size) for where, size in zip(addresses, sizes, strict=True)]), counts, axis=0)
    rows[:, :-1] += 4 * offsets[:, None]
    rows[:, -1] = np.minimum(rows[:, -1] - offsets, STRETCH)
    return np.ascontiguousarray(rows, dtype=np.int64)
