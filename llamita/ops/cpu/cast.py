"""fp32 to bf16: weights and activations before a matrix product."""

from torch import Tensor

from llamita.jit.machine_code import ParallelKernel
from llamita.jit.pool import ARGS, NUM_ROWS
from llamita.jit.primitives import bf16_ptr, chunk_end, fp32_ptr, next_chunk, store_nan_safe
from llamita.ops.cpu.launch import launch

CHUNK = 1 << 16  # elements: a smaller matrix is not worth waking another thread


def cast_to_bf16(x: Tensor, out: Tensor) -> Tensor:
    """Round x, contiguous fp32, into `out`, contiguous bf16 with the same number of elements -> out."""
    launch(_cast, x.numel(), CHUNK, x, out)
    return out


@ParallelKernel
def _cast(table):
    x, out = fp32_ptr(table[ARGS]), bf16_ptr(table[ARGS + 1])
    first = next_chunk(table)
    while first < table[NUM_ROWS]:
        for i in range(first, chunk_end(table, first)):
            store_nan_safe(out, i, x[i])
        first = next_chunk(table)
