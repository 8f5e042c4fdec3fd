"""The norm of many tensors together, in one pass, and their multiplication by one number, in another."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from llamita.jit.machine_code import Body, exact_body
from llamita.jit.numbers import F, end_of, fp32s, fp64, fp64s, int64s, take_rows
from llamita.jit.pool import FIRST_ARGUMENT, ROWS
from llamita.ops.cpu.flat import stretches
from llamita.ops.cpu.launch import run


def joint_norm(tensors: Sequence[Tensor]) -> Tensor:
    """sqrt(Σ x²) over all elements of fp32 tensors without gaps on the CPU -> () fp32.

    Each stretch is added up in fp32, and these sums in fp64, in their order: whichever thread made them.
    """
    places = _places(tensors)
    sums = np.empty(len(places), dtype=np.float64)
    run(_squares, len(places), 1, places, sums)
    return torch.tensor(np.sqrt(sums.sum()), dtype=torch.float32)


def scale_together(tensors: Sequence[Tensor], factor: float) -> None:
    """Multiply all elements of fp32 tensors without gaps on the CPU, in their place."""
    places = _places(tensors)
    run(_scale, len(places), 1, places, float(factor))


def _places(tensors: Sequence[Tensor]) -> np.ndarray:
    return stretches([(tensor.data_ptr(),) for tensor in tensors], [tensor.numel() for tensor in tensors])


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
