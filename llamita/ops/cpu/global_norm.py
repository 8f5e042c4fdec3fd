"""The norm of many tensors together in one pass, and their multiplication by one number in another."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from llamita.jit.machine_code import Body, exact_body
from llamita.jit.numbers import F, end_of, fp32s, fp64, fp64s, int64s, take_rows
from llamita.jit.pool import FIRST_ARGUMENT, ROWS
from llamita.ops.cpu.chunks import chunks
from llamita.ops.cpu.launch import run


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """sqrt(Σ x²) over all elements of contiguous fp32 tensors on the CPU -> () fp32.

    Each chunk is summed in fp32, and these sums in fp64, in their order, whichever thread computed them.
    """
    table = chunks([(tensor,) for tensor in tensors])
    sums = np.empty(len(table), dtype=np.float64)
    run(_squares, len(table), 1, table, sums)
    return torch.tensor(np.sqrt(sums.sum()), dtype=torch.float32)


def scale_(tensors: Sequence[Tensor], factor: float) -> None:
    """Multiply all elements of contiguous fp32 tensors on the CPU, in place."""
    table = chunks([(tensor,) for tensor in tensors])
    run(_scale, len(table), 1, table, float(factor))


@exact_body
def _scale(table):
    places, factor = int64s(table[FIRST_ARGUMENT]), F(fp64(table[FIRST_ARGUMENT + 1]))
    first = take_rows(table)
    while first < table[ROWS]:
        for row in range(first, end_of(table, first)):
            x = fp32s(places[2 * row])
            for i in range(places[2 * row + 1]):
                x[i] *= factor
        first = take_rows(table)


@Body
def _squares(table):
    places, sums = int64s(table[FIRST_ARGUMENT]), fp64s(table[FIRST_ARGUMENT + 1])
    first = take_rows(table)
    while first < table[ROWS]:
        for row in range(first, end_of(table, first)):
            x, total = fp32s(places[2 * row]), F(0.0)
            for i in range(places[2 * row + 1]):
                total += x[i] * x[i]
            sums[row] = total
        first = take_rows(table)
