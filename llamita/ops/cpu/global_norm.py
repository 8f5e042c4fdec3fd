"""The joint norm of many tensors in one pass, and their scaling by a factor in another: gradient clipping."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from llamita.jit.machine_code import ParallelKernel, strict_fp_kernel
from llamita.jit.pool import ARGS, NUM_ROWS
from llamita.jit.primitives import F, as_fp64, chunk_end, fp32_ptr, fp64_ptr, int64_ptr, next_chunk
from llamita.ops.cpu.chunks import chunk_table
from llamita.ops.cpu.launch import is_fake, launch


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """sqrt(Σ x²) over all elements of contiguous fp32 tensors on the CPU -> () fp32.

    Each chunk is summed in fp32, and the chunk sums in fp64 in a fixed order, whichever thread computed them. The norm
    of FakeTensors is a FakeTensor.
    """
    if is_fake(tensors[0]):
        return tensors[0].new_empty(())
    table = chunk_table([(tensor,) for tensor in tensors])
    sums = np.empty(len(table), dtype=np.float64)
    launch(_sum_squares, len(table), 1, table, sums)
    return torch.tensor(np.sqrt(sums.sum()), dtype=torch.float32)


def scale_(tensors: Sequence[Tensor], factor: float) -> None:
    """Multiply all elements of contiguous fp32 tensors on the CPU, in place. Does nothing to FakeTensors."""
    if is_fake(tensors[0]):
        return
    table = chunk_table([(tensor,) for tensor in tensors])
    launch(_scale, len(table), 1, table, float(factor))


@strict_fp_kernel
def _scale(table):
    chunks, factor = int64_ptr(table[ARGS]), F(as_fp64(table[ARGS + 1]))
    first = next_chunk(table)
    while first < table[NUM_ROWS]:
        for row in range(first, chunk_end(table, first)):
            x = fp32_ptr(chunks[2 * row])
            for i in range(chunks[2 * row + 1]):
                x[i] *= factor
        first = next_chunk(table)


@ParallelKernel
def _sum_squares(table):
    chunks, sums = int64_ptr(table[ARGS]), fp64_ptr(table[ARGS + 1])
    first = next_chunk(table)
    while first < table[NUM_ROWS]:
        for row in range(first, chunk_end(table, first)):
            x, total = fp32_ptr(chunks[2 * row]), F(0.0)
            for i in range(chunks[2 * row + 1]):
                total += x[i] * x[i]
            sums[row] = total
        first = next_chunk(table)
