"""Matrix products of bf16 for loops, where the processor has an instruction for them.

    C[row, column] (+)= Σ over steps of  A[row, 2·step] · B[2·step, column] + A[row, 2·step + 1] · B[2·step + 1, column]

`VDPBF16PS` (Intel since Cooper Lake, AMD since Zen 4) does that for 16 columns at once and sums in fp32. It takes two
neighbouring numbers of a sum as one unit of 32 bits, a *pair*. So A and B are made of pairs here, and all distances are
counted in units of 32 bits:

- Pairs of A lie anywhere: `a_row` is the distance between two rows, `a_step` that between two steps. A row of bf16
  numbers is a row of pairs as it lies in memory.
- Of B, the pairs of 32 columns lie side by side, one step after the other; then come those of the next 32 columns. The
  last columns may be 16. `pack_rows` and `pack_columns` lay them out so.

A tile of C, 8 rows of 32 columns, stays in registers during the whole sum, and the part of B that it needs in the
nearest cache while rows go by: that makes products fast (Goto and van de Geijn, 2008).
"""

from functools import cache

import numpy as np

from llamita.jit.cpu import CPUINFO, cpu_flags
from llamita.jit.language import helper, intrinsic
from llamita.jit.numbers import bf16s, uint32s
from llamita.jit.object_file import host_has

ROWS_OF_TILE, WIDTH, LANES = 8, 32, 16
_BYTES = 4  # of a pair

_wide_tile, _narrow_tile = (intrinsic("tile_product", ROWS_OF_TILE, vectors, LANES) for vectors in (2, 1))
_wide_row, _narrow_row = (intrinsic("tile_product", 1, vectors, LANES) for vectors in (2, 1))


@cache
def has_bf16_products() -> bool:
    """Whether the processor has the instruction (AVX512_BF16)."""
    return "avx512_bf16" in cpu_flags() if CPUINFO.exists() else host_has("avx512bf16")


@cache
def has_amx() -> bool:
    """Whether the processor has a unit for whole tiles of bf16 (Intel's AMX), which torch's products use."""
    return "amx_bf16" in cpu_flags() if CPUINFO.exists() else host_has("amx-bf16")


@helper
def multiply(c, c_row, a, a_row, a_step, b, b_steps, first_step, rows, columns, steps, adds):
    """C = A · B, or C += A · B where it `adds`: so many `rows`, `columns`, a multiple of 16, and `steps`.

    a, b, c are addresses, of pairs, pairs and fp32; of the `b_steps` steps of B those from `first_step` on are used.
    """
    for column in range(0, columns, WIDTH):
        width = min(WIDTH, columns - column)
        part = b + _BYTES * (column * b_steps + first_step * width)
        row = 0
        while row < rows:
            out, own = c + _BYTES * (row * c_row + column), a + _BYTES * row * a_row
            if row + ROWS_OF_TILE <= rows:
                if width == WIDTH:
                    _wide_tile(out, c_row, own, a_row, a_step, part, steps, adds)
                else:
                    _narrow_tile(out, c_row, own, a_row, a_step, part, steps, adds)
                row += ROWS_OF_TILE
            else:
                if width == WIDTH:
                    _wide_row(out, c_row, own, a_row, a_step, part, steps, adds)
                else:
                    _narrow_row(out, c_row, own, a_row, a_step, part, steps, adds)
                row += 1


@helper
def up_to(number, unit):
    """The next multiple of `unit`."""
    return (number + unit - 1) // unit * unit


@helper
def pack_rows(packed, source, distance, rows, size):
    """B whose steps are pairs of rows: (rows, size) bf16, rows `distance` numbers apart -> pairs of neighbouring rows.

    A last row without a neighbour gets one of zeros. -> packed, with (rows + 1) // 2 steps, and columns of zeros up to
    a multiple of 16.
    """
    out, numbers = uint32s(packed), bf16s(source)
    write, columns = 0, up_to(size, LANES)
    for column in range(0, columns, WIDTH):
        width = min(WIDTH, columns - column)
        count = min(width, size - column)
        for step in range((rows + 1) // 2):
            upper = 2 * step * distance + column
            if 2 * step + 1 < rows:
                for i in range(count):
                    lower = np.uint32(numbers[upper + distance + i]) << np.uint32(16)
                    out[write + i] = np.uint32(numbers[upper + i]) | lower
            else:
                for i in range(count):
                    out[write + i] = np.uint32(numbers[upper + i])
            for i in range(count, width):
                out[write + i] = np.uint32(0)
            write += width


@helper
def pack_columns(packed, source, distance, rows, size):
    """B whose columns are rows in memory: (rows, size) bf16, rows `distance` numbers apart -> as many columns of pairs.

    -> packed, with size // 2 steps, and columns of zeros up to a multiple of 32.
    """
    out, pairs = uint32s(packed), uint32s(source)
    steps = size // 2
    for column in range(0, rows, WIDTH):
        width, write = min(WIDTH, rows - column), column * steps
        for step in range(steps):
            for i in range(width):
                out[write + i] = pairs[(column + i) * (distance // 2) + step]
            for i in range(width, WIDTH):
                out[write + i] = np.uint32(0)
            write += WIDTH
