"""A list of tensors as the optimizer's multi-tensor kernels see it: a table of chunks of contiguous fp32 memory."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from llamita.ops.backend import backend

CHUNK = 1 << 14  # elements


def supports(*tensors: Tensor) -> bool:
    """Whether the optimizer's kernels may compute on these: contiguous fp32 tensors on the CPU."""
    is_fp32 = all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in tensors)
    return is_fp32 and backend.can_fuse(*tensors)


def chunk_table(tensors: Sequence[tuple[Tensor, ...]]) -> np.ndarray:
    """Rows of k tensors of equal size -> (chunks, k + 1) int64: k addresses and the element count of each chunk."""
    sizes = [row[0].numel() for row in tensors]
    addresses = [(*(tensor.data_ptr() for tensor in row), size) for row, size in zip(tensors, sizes, strict=True)]
    counts = [-(-size // CHUNK) for size in sizes]
    first = np.repeat(np.cumsum([0, *counts[:-1]]), counts)
    offsets = (np.arange(len(first)) - first) * CHUNK
    rows = np.repeat(np.array(addresses), counts, axis=0)
    rows[:, :-1] += 4 * offsets[:, None]
    rows[:, -1] = np.minimum(rows[:, -1] - offsets, CHUNK)
    return np.ascontiguousarray(rows, dtype=np.int64)
