"""fp32 to bf16 and back: of weights and activations on their way into a matrix product, and of its result."""

import torch
from torch import Tensor

from llamita.jit.machine_code import Body
from llamita.jit.numbers import bf16s, end_of, fp32s, store_any, take_rows
from llamita.jit.pool import FIRST_ARGUMENT, ROWS
from llamita.ops.cpu.launch import run
from llamita.ops.cpu.scratch import scratch

CHUNK = 1 << 16  # elements: a smaller matrix is not worth waking another thread


def narrow(x: Tensor, out: Tensor) -> Tensor:
    """Round x, contiguous fp32, into `out`, contiguous bf16 of as many elements -> out."""
    run(_narrow, x.numel(), CHUNK, x, out)
    return out


def narrow_weight(weight: Tensor) -> Tensor:
    """An fp32 matrix as bf16, in a scratch buffer: a copy to keep would cost 2 bytes a parameter."""
    return narrow(weight, scratch("weight", *weight.shape, like=weight))


def product_in_fp32(a: Tensor, b: Tensor) -> Tensor:
    """a (m, k) · b (k, n), both bf16 -> (m, n) fp32."""
    return torch.mm(a, b, out=scratch("product", a.shape[0], b.shape[1], like=a)).float()


@Body
def _narrow(table):
    x, out = fp32s(table[FIRST_ARGUMENT]), bf16s(table[FIRST_ARGUMENT + 1])
    first = take_rows(table)
    while first < table[ROWS]:
        for i in range(first, end_of(table, first)):
            store_any(out, i, x[i])
        first = take_rows(table)
