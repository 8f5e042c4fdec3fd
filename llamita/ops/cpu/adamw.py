"""Multi-tensor AdamW in one pass: each element is read once and written once. See `optim/adamw.py`.

A table of addresses splits all parameters into chunks of equal length, which the threads claim one by one. So a
thousand small parameters cost a single launch.
"""

from collections.abc import Sequence

from torch import Tensor

from llamita.jit.machine_code import strict_fp_kernel
from llamita.jit.pool import ARGS, NUM_ROWS
from llamita.jit.primitives import F, as_fp64, chunk_end, fp32_ptr, int64_ptr, next_chunk, sqrt
from llamita.ops.cpu.chunks import chunk_table
from llamita.ops.cpu.launch import is_fake, launch


def adamw(
    rows: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
) -> None:
    """Update (parameter, gradient, m, v) in place, contiguous fp32 on the CPU; `step` counts updates from 1."""
    if is_fake(rows[0][0]):
        return  # the memory estimate steps on FakeTensors
    table, step_size, correction2 = chunk_table(rows), lr / (1 - beta1**step), 1 - beta2**step
    scalars = step_size, correction2, 1 - lr * weight_decay, beta1, beta2, eps
    launch(_update, len(table), 1, table, *(float(scalar) for scalar in scalars))


@strict_fp_kernel
def _update(table):
    chunks = int64_ptr(table[ARGS])
    step_size, correction2 = F(as_fp64(table[ARGS + 1])), F(as_fp64(table[ARGS + 2]))
    decay = F(as_fp64(table[ARGS + 3]))
    beta1, beta2, eps = F(as_fp64(table[ARGS + 4])), F(as_fp64(table[ARGS + 5])), F(as_fp64(table[ARGS + 6]))
    weight1, weight2 = F(1.0 - as_fp64(table[ARGS + 4])), F(1.0 - as_fp64(table[ARGS + 5]))
    first = next_chunk(table)
    while first < table[NUM_ROWS]:
        for row in range(first, chunk_end(table, first)):
            p, g = fp32_ptr(chunks[5 * row]), fp32_ptr(chunks[5 * row + 1])
            m, v = fp32_ptr(chunks[5 * row + 2]), fp32_ptr(chunks[5 * row + 3])
            for i in range(chunks[5 * row + 4]):
                grad = g[i]
                # Start from the nearer end, as torch's lerp does: the result is exact at both ends.
                mean = m[i] + (grad - m[i]) * weight1 if weight1 < F(0.5) else grad - (grad - m[i]) * beta1
                square = v[i] * beta2 + grad * grad * weight2
                m[i], v[i] = mean, square
                p[i] = p[i] * decay - step_size * mean / (sqrt(square / correction2) + eps)
        first = next_chunk(table)
