"""Numbers in memory, for loops: addresses, bf16, and an exponential that becomes vectors.

A bf16 number is the upper half of an fp32 number. The compiler has no such type: loops read it as 16 bits, compute in
fp32, and round when they write.
"""

import numpy as np

from llamita.jit.language import helper, intrinsic
from llamita.jit.pool import AT_ONCE, ROWS

F = np.float32

bf16s, fp32s, fp64s = (
    intrinsic("pointer_to", "uint16"),
    intrinsic("pointer_to", "float32"),
    intrinsic("pointer_to", "float64"),
)
uint32s, int64s = intrinsic("pointer_to", "uint32"), intrinsic("pointer_to", "int64")
"""Address -> the numbers that lie there."""
fp64 = intrinsic("same_bits", "int64", "float64")
"""The float that was handed over as an int64."""
fp32_of, bits_of = intrinsic("same_bits", "uint32", "float32"), intrinsic("same_bits", "float32", "uint32")
"""Between an fp32 number and its bits, a uint32."""
_rint, sqrt = intrinsic("of_llvm", "llvm.rint"), intrinsic("of_llvm", "llvm.sqrt")
log = intrinsic("of_llvm", "llvm.log")
"""ln x; one at a time."""
copy_bf16s = intrinsic("copying", "uint16")
"""(out, write, memory, read, count): copy so many from place `read` to place `write`; few are no work for vectors."""
add_together = intrinsic("adding_together")
"""(place, number): add to an int64 that other threads add to as well -> what was there before."""


@helper
def take_rows(table):
    """The first of the rows that this thread does next; past the last one when nothing is left."""
    return add_together(table, table[AT_ONCE])


@helper
def end_of(table, first):
    """The row after the last one taken."""
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
