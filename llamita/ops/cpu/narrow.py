"""fp32 to bf16: weights and activations on their way into a matrix product."""

from torch import Tensor

from llamita.jit.machine_code import Body
from llamita.jit.numbers import bf16s, end_of, fp32s, store_any, take_rows
from llamita.jit.pool import FIRST_ARGUMENT, ROWS
from llamita.ops.cpu.launch import run

CHUNK = 1 << 16  # elements: a smaller matrix is not worth waking another thread


def narrow(x: Tensor, out: Tensor) -> Tensor:
    """Round x, contiguous fp32, into `out`, contiguous bf16 of as many elements -> out."""
    run(_narrow, x.numel(), CHUNK, x, out)
    return out


@Body
def _narrow(table):
    x, out = fp32s(table[FIRST_ARGUMENT]), bf16s(table[FIRST_ARGUMENT + 1])
    first = take_rows(table)
    while first < table[ROWS]:
        for i in range(first, end_of(table, first)):
            store_any(out, i, x[i])
        first = take_rows(table)
