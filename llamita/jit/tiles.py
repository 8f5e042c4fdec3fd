"""bf16 matrix multiplication inside kernels, where the processor has a dot-product instruction.

    C[row, column] (+)= Σ over steps of  A[row, 2·step] · B[2·step, column] + A[row, 2·step + 1] · B[2·step + 1, column]

`VDPBF16PS` (Intel since Cooper Lake, AMD since Zen 4) computes one step for 16 columns and accumulates in fp32. Its
operands hold two consecutive elements of the reduction as one 32-bit *pair*. So A and B are matrices of pairs here, and
all strides count 32-bit units:

- A may have any layout: `a_row` is the stride between rows, `a_step` that between steps. A contiguous row of bf16
  values already is a row of pairs.
- B is packed in panels of 32 columns, each with one step after another. The last panel may have 16 columns. `pack_rows`
  and `pack_columns` make this layout.

The micro-kernel keeps a tile of C, 8 rows of 32 columns, in registers over the whole reduction, while its panel of B
stays in L1 (Goto and van de Geijn, 2008).
"""

from functools import cache

import numpy as np

from llamita.jit.cpu import CPUINFO, cpu_flags
from llamita.jit.language import helper, intrinsic
from llamita.jit.object_file import host_has
from llamita.jit.primitives import bf16_ptr, uint32_ptr

TILE_ROWS, WIDTH, LANES = 8, 32, 16
_BYTES = 4  # of a pair

_wide_tile, _narrow_tile = (intrinsic("tile_matmul", TILE_ROWS, vectors, LANES) for vectors in (2, 1))
_wide_row, _narrow_row = (intrinsic("tile_matmul", 1, vectors, LANES) for vectors in (2, 1))


@cache
def has_bf16_products() -> bool:
    """Whether the processor has the instruction (AVX512_BF16)."""
    return "avx512_bf16" in cpu_flags() if CPUINFO.exists() else host_has("avx512bf16")


@cache
def has_amx() -> bool:
    """Whether the processor has AMX (bf16 matrix multiplication in hardware), which torch uses."""
    return "amx_bf16" in cpu_flags() if CPUINFO.exists() else host_has("amx-bf16")


@helper
def multiply(c, c_row, a, a_row, a_step, b, b_steps, first_step, rows, columns, steps, accumulate):
    """C = A · B, or C += A · B if `accumulate`, with `rows`, `columns` (a multiple of 16) and `steps`.

    a, b, c are addresses, of pairs, pairs and fp32. Of the `b_steps` steps of B, those from `first_step` on are used.
    """
    for column in range(0, columns, WIDTH):
        width = min(WIDTH, columns - column)
        panel = b + _BYTES * (column * b_steps + first_step * width)
        row = 0
        while row < rows:
            c_tile, a_tile = c + _BYTES * (row * c_row + column), a + _BYTES * row * a_row
            if row + TILE_ROWS <= rows:
                if width == WIDTH:
                    _wide_tile(c_tile, c_row, a_tile, a_row, a_step, panel, steps, accumulate)
                else:
                    _narrow_tile(c_tile, c_row, a_tile, a_row, a_step, panel, steps, accumulate)
                row += TILE_ROWS
            else:
                if width == WIDTH:
                    _wide_row(c_tile, c_row, a_tile, a_row, a_step, panel, steps, accumulate)
                else:
                    _narrow_row(c_tile, c_row, a_tile, a_row, a_step, panel, steps, accumulate)
                row += 1


@helper
def round_up(number, multiple):
    """The smallest multiple of `multiple` that is not below `number`."""
    return (number + multiple - 1) // multiple * multiple


@helper
def pack_rows(packed, source, stride, rows, size):
    """Pack (rows, size) bf16, with `stride` elements between rows, as a B whose reduction runs over the rows.

    -> packed, with (rows + 1) // 2 steps; an odd last row is paired with zeros, and columns are padded with zeros to a
    multiple of 16.
    """
    out, x = uint32_ptr(packed), bf16_ptr(source)
    write, columns = 0, round_up(size, LANES)
    for column in range(0, columns, WIDTH):
        width = min(WIDTH, columns - column)
        count = min(width, size - column)
        for step in range((rows + 1) // 2):
            even = 2 * step * stride + column
            if 2 * step + 1 < rows:
                for i in range(count):
                    high = np.uint32(x[even + stride + i]) << np.uint32(16)
                    out[write + i] = np.uint32(x[even + i]) | high
            else:
                for i in range(count):
                    out[write + i] = np.uint32(x[even + i])
            for i in range(count, width):
                out[write + i] = np.uint32(0)
            write += width


@helper
def pack_columns(packed, source, stride, rows, size):
    """Pack (rows, size) bf16, with `stride` elements between rows, transposed: as a B whose columns are the rows.

    -> packed, with size // 2 steps; columns are padded with zeros to a multiple of 32.
    """
    out, pairs = uint32_ptr(packed), uint32_ptr(source)
    steps = size // 2
    for column in range(0, rows, WIDTH):
        width, write = min(WIDTH, rows - column), column * steps
        for step in range(steps):
            for i in range(width):
                out[write + i] = pairs[(column + i) * (stride // 2) + step]
            for i in range(width, WIDTH):
                out[write + i] = np.uint32(0)
            write += WIDTH
