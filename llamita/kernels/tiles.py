"""Matrix products of bf16 for loops that numba compiles, where the processor has an instruction for them.

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
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils, config

from llamita.kernels.numbers import bf16s, helper, intrinsic, uint32s

ROWS_OF_TILE, WIDTH, LANES = 8, 32, 16
_BYTES = 4


@cache
def has_bf16_products() -> bool:
    """Whether the processor multiplies bf16 (AVX512_BF16), and numba compiles for just this one."""
    settings: Any = config
    compiles_for_another = settings.CPU_NAME or settings.CPU_FEATURES
    return not compiles_for_another and bool(binding.get_host_cpu_features().get("avx512bf16"))


class _BFloat(ir.Type):
    """bf16, which LLVM knows and llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"


_FLOATS, _PAIRS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.IntType(32), LANES)
_HALVES = ir.VectorType(_BFloat(), 2 * LANES)


def _tile_product(rows: int, vectors: int) -> Any:
    """A function that computes a tile of C: so many rows of so many vectors. A, B, C are addresses."""

    @intrinsic
    def product(_: Any, c: Any, c_row: Any, a: Any, a_row: Any, a_step: Any, b: Any, steps: Any, adds: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _generate_tile(builder, rows, vectors, *arguments)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7, types.boolean), generate

    return product


def _generate_tile(
    builder: Any,
    rows: int,
    vectors: int,
    c: Any,
    c_row: Any,
    a: Any,
    a_row: Any,
    a_step: Any,
    b: Any,
    steps: Any,
    adds: Any,
) -> None:
    tile = [(row, vector) for row in range(rows) for vector in range(vectors)]
    results = {(row, vector): _place(builder, c, _FLOATS, (row, c_row), (vector, LANES)) for row, vector in tile}
    sums = {at: cgutils.alloca_once_value(builder, _old(builder, place, adds)) for at, place in results.items()}
    dot = builder.module.declare_intrinsic(
        "llvm.x86.avx512bf16.dpbf16ps.512", (), ir.FunctionType(_FLOATS, [_FLOATS, _HALVES, _HALVES])
    )
    with cgutils.for_range(builder, steps) as loop:
        step = loop.index
        ours = [_place(builder, b, _PAIRS, (step, LANES * vectors), (vector, LANES)) for vector in range(vectors)]
        ours = [builder.bitcast(builder.load(place, align=_BYTES), _HALVES) for place in ours]
        for row in range(rows):
            theirs = _everywhere(builder, _place(builder, a, ir.IntType(32), (row, a_row), (step, a_step)))
            for vector in range(vectors):
                total = sums[row, vector]
                builder.store(builder.call(dot, [builder.load(total), theirs, ours[vector]]), total)
    for at, place in results.items():
        builder.store(builder.load(sums[at]), place, align=_BYTES)


def _place(builder: Any, address: Any, kind: Any, *ways: tuple[Any, Any]) -> Any:
    """A pointer to what lies so many times so many units of 32 bits behind the address."""
    for times, distance in ways:
        times, distance = (x if isinstance(x, ir.Value) else ir.IntType(64)(x) for x in (times, distance))
        units = builder.mul(times, distance)
        address = builder.add(address, builder.mul(units, ir.IntType(64)(_BYTES)))
    return builder.inttoptr(address, kind.as_pointer())


def _old(builder: Any, place: Any, adds: Any) -> Any:
    return builder.select(adds, builder.load(place, align=_BYTES), ir.Constant(_FLOATS, None))


def _everywhere(builder: Any, place: Any) -> Any:
    """A vector of the same pair in all its places."""
    nothing = ir.Constant(_PAIRS, ir.Undefined)
    one = builder.insert_element(nothing, builder.load(place), ir.IntType(32)(0))
    return builder.bitcast(builder.shuffle_vector(one, nothing, ir.Constant(_PAIRS, None)), _HALVES)


_wide_tile, _narrow_tile = _tile_product(ROWS_OF_TILE, 2), _tile_product(ROWS_OF_TILE, 1)
_wide_row, _narrow_row = _tile_product(1, 2), _tile_product(1, 1)


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
    """The next multiple of `unit`. (Python calls `up_to.py_func`.)"""
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
