"""Numbers in memory, for loops that numba compiles: addresses, bf16, and an exponential that becomes vectors.

A bf16 number is the upper half of an fp32 number. numba has no such type: the loops read it as 16 bits, compute in
fp32, and round when they write.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, njit, types
from numba.core import cgutils

from llamita.kernels.workers import AT_ONCE, REWRITES, ROWS

intrinsic: Any = extending.intrinsic  # whose types pyright takes for those of the function it decorates
helper: Any = njit(error_model="numpy", fastmath=set(REWRITES), no_cpython_wrapper=True, no_cfunc_wrapper=True)  # pyright: ignore[reportCallIssue]

F = np.float32


def _pointer_to(kind: Any) -> Any:
    """A function (address) -> what lies there, as an array without an end."""

    @intrinsic
    def pointer(_: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(kind).as_pointer())

        return types.CPointer(kind)(types.int64), generate

    return pointer


bf16s = _pointer_to(types.uint16)
fp32s = _pointer_to(types.float32)
uint32s = _pointer_to(types.uint32)
fp64s = _pointer_to(types.float64)
int64s = _pointer_to(types.int64)


def _same_bits(given: Any, seen: Any) -> Any:
    """A function (number of one kind) -> the number of another kind that has the same bits."""

    @intrinsic
    def reinterpret(_: Any, number: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(seen))

        return seen(given), generate

    return reinterpret


fp64 = _same_bits(types.int64, types.float64)
"""The float that was handed over as an int64."""
fp32_of = _same_bits(types.uint32, types.float32)
bits_of = _same_bits(types.float32, types.uint32)


def _of_llvm(name: str) -> Any:
    """The function of an fp32 number that LLVM calls so."""

    @intrinsic
    def function(_: Any, number: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.call(builder.module.declare_intrinsic(name, [ir.FloatType()]), arguments)

        return types.float32(types.float32), generate

    return function


_rint, sqrt = _of_llvm("llvm.rint"), _of_llvm("llvm.sqrt")
log = _of_llvm("llvm.log")
"""ln x; one at a time."""


@intrinsic
def copy_bf16s(_: Any, out: Any, write: Any, memory: Any, read: Any, count: Any) -> Any:
    """Copy `count` bf16 numbers from place `read` to place `write`, as bytes: few are no work for a vector loop."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, write, memory, read, count = arguments
        target, source = builder.gep(out, [write]), builder.gep(memory, [read])
        cgutils.memcpy(builder, target, source, count)
        return context.get_dummy_value()

    bf16s_there = types.CPointer(types.uint16)
    return types.void(bf16s_there, types.int64, bf16s_there, types.int64, types.int64), generate


@intrinsic
def add_together(_: Any, place: Any, number: Any) -> Any:
    """Add to an int64 that other threads add to as well -> what was there before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", *arguments, "monotonic")

    return types.int64(types.CPointer(types.int64), types.int64), generate


@helper
def take_rows(table):
    """The first of the rows that this thread does next; past the last one when nothing is left."""
    return add_together(table, table[AT_ONCE])


@helper
def end_of(table, first):
    """The row behind the last of those taken."""
    return min(first + table[AT_ONCE], table[ROWS])


@helper
def load(memory, i):
    """The bf16 number at place `i`, as fp32."""
    return fp32_of(np.uint32(memory[i]) << np.uint32(16))


@helper
def narrow(number):
    """fp32 -> the bits of the nearest bf16 number, of two equally near ones the even one.

    NaN stays NaN where it was computed here, or of bf16 numbers; see `store_any`. (The processor's own instruction for
    this does not pay: the compiler makes slower loops around it.)
    """
    bits = bits_of(number)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@helper
def store(memory, i, number):
    """Write an fp32 number as bf16, rounded as `narrow` does."""
    memory[i] = narrow(number)


@helper
def store_any(memory, i, number):
    """`store`, for what comes of fp32 numbers from outside: rounding makes some kinds of NaN a zero."""
    if number == number:
        store(memory, i, number)
    else:
        memory[i] = np.uint16(0x7FC0)


@helper
def order(memory, i):
    """An integer that grows as the bf16 number at place `i` does: a maximum of integers becomes vectors."""
    bits = np.int32(np.int16(memory[i]))
    return bits ^ ((bits >> np.int32(15)) & np.int32(0x7FFF))


@helper
def in_order(place):
    """The fp32 number that has this place in the `order`."""
    bits = place ^ ((place >> np.int32(15)) & np.int32(0x7FFF))
    return fp32_of(np.uint32(bits) << np.uint32(16))


@helper
def exp(x):
    """e^x, to 2 units in the last place of fp32 for |x| <= 1 and to 4·10⁻⁶ of it for all; NaN of NaN.

    It is 0 below -87, where fp32 ends, and e^88 above 88, where it ends on the other side.

    With n the integer nearest to x / ln 2 and f what is left of it, e^x = 2^n · 2^f; the first factor is an exponent
    of fp32, the second a polynomial, since |f| <= 1/2.
    """
    scaled = min(x, F(88.0)) * F(1.4426950408889634) if x > F(80.0) else x * F(1.4426950408889634)
    whole = _rint(scaled)
    f = scaled - whole
    power = F(1.5403530e-4)
    power = power * f + F(1.33335581e-3)
    power = power * f + F(9.61812911e-3)
    power = power * f + F(5.55041087e-2)
    power = power * f + F(2.40226507e-1)
    power = power * f + F(6.93147181e-1)
    power = power * f + F(1.0)
    result = power * fp32_of(np.uint32(np.int32(whole) + np.int32(127)) << np.uint32(23))
    return F(0.0) if x < F(-87.0) else result
