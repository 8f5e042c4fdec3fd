"""AdamW over all parameters in one pass: each number is read once and written once. See `optim/adamw.py`.

Parameters may lie anywhere: a table of their addresses is cut into chunks of equal length, which the threads take one
after the other. So a thousand small parameters cost one call.
"""

from collections.abc import Sequence

from torch import Tensor

from llamita.jit.machine_code import exact_body
from llamita.jit.numbers import F, end_of, fp32s, fp64, int64s, sqrt, take_rows
from llamita.jit.pool import FIRST_ARGUMENT, ROWS
from llamita.ops.cpu.chunks import chunks
from llamita.ops.cpu.launch import has_no_values, run


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
    if has_no_values(rows[0][0]):
        return  # the memory estimate steps on FakeTensors
    table, step_size, correction2 = chunks(rows), lr / (1 - beta1**step), 1 - beta2**step
    numbers = step_size, correction2, 1 - lr * weight_decay, beta1, beta2, eps
    run(_update, len(table), 1, table, *(float(number) for number in numbers))


@exact_body
def _update(table):
    a, places = FIRST_ARGUMENT, int64s(table[FIRST_ARGUMENT])
    step_size, correction2, decay = F(fp64(table[a + 1])), F(fp64(table[a + 2])), F(fp64(table[a + 3]))
    beta1, beta2, eps = F(fp64(table[a + 4])), F(fp64(table[a + 5])), F(fp64(table[a + 6]))
    new1, new2 = F(1.0 - fp64(table[a + 4])), F(1.0 - fp64(table[a + 5]))
    first = take_rows(table)
    while first < table[ROWS]:
        for row in range(first, end_of(table, first)):
            p, g = fp32s(places[5 * row]), fp32s(places[5 * row + 1])
            m, v = fp32s(places[5 * row + 2]), fp32s(places[5 * row + 3])
            for i in range(places[5 * row + 4]):
                grad = g[i]
                # From the nearer end, so that it ends there exactly: as torch's lerp does.
                mean = m[i] + (grad - m[i]) * new1 if new1 < F(0.5) else grad - (grad - m[i]) * beta1
                square = v[i] * beta2 + grad * grad * new2
                m[i], v[i] = mean, square
                p[i] = p[i] * decay - step_size * mean / (sqrt(square / correction2) + eps)
        first = take_rows(table)
