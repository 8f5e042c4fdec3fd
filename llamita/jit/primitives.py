"""What kernels are built from: typed pointers, bf16 loads and stores, fast exp and log, dynamic scheduling.

numba has no bf16 type. A bf16 value is the upper half of an fp32 value, so kernels load it as a uint16, compute in
fp32, and round when they store.
"""

import numpy as np

from llamita.jit.language import helper, intrinsic
from llamita.jit.pool import CHUNK_SIZE, NUM_ROWS

F = np.float32

bf16_ptr, fp32_ptr, fp64_ptr = (
    intrinsic("pointer_to", "uint16"),
    intrinsic("pointer_to", "float32"),
    intrinsic("pointer_to", "float64"),
)
uint32_ptr, int64_ptr = intrinsic("pointer_to", "uint32"), intrinsic("pointer_to", "int64")
"""Address -> pointer to values of that type."""
as_fp64 = intrinsic("bitcast", "int64", "float64")
"""A float argument, which the table holds as the int64 with the same bits."""
bits_to_fp32, fp32_to_bits = intrinsic("bitcast", "uint32", "float32"), intrinsic("bitcast", "float32", "uint32")
"""Between an fp32 value and its bits as a uint32."""
_rint, sqrt = intrinsic("llvm_function", "llvm.rint"), intrinsic("llvm_function", "llvm.sqrt")
log = intrinsic("llvm_function", "llvm.log")
"""ln x; a scalar call, not vectorized."""
copy_bf16 = intrinsic("memcpy", "uint16")
"""(out, write, memory, read, count): copy `count` values from memory[read] to out[write]. Faster than a loop."""
atomic_add = intrinsic("atomic_add")
"""(pointer, value): add to an int64 that other threads add to as well; returns the previous value."""


@helper
def next_chunk(table):
    """Claim the next chunk of rows; returns its first row, or a row past the end when no chunks are left."""
    return atomic_add(table, table[CHUNK_SIZE])


@helper
def chunk_end(table, first):
    """The end (exclusive) of the chunk that begins at row `first`."""
    return min(first + table[CHUNK_SIZE], table[NUM_ROWS])


@helper
def load(memory, i):
    """The bf16 value at index `i`, as fp32."""
    return bits_to_fp32(np.uint32(memory[i]) << np.uint32(16))


@helper
def round_to_bf16(x):
    """fp32 -> the bits of the nearest bf16 value, ties to even.

    A NaN stays NaN if it was computed here or loaded from bf16; for others, see `store_nan_safe`. (The processor's own
    instruction is no faster: LLVM vectorizes the loops around it less well.)
    """
    bits = fp32_to_bits(x)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@helper
def store(memory, i, x):
    """Store an fp32 value as bf16, rounded to nearest even."""
    memory[i] = round_to_bf16(x)


@helper
def store_nan_safe(memory, i, x):
    """`store` for fp32 values from outside, which may be any NaN: rounding turns some NaN bit patterns into zero."""
    if x == x:
        store(memory, i, x)
    else:
        memory[i] = np.uint16(0x7FC0)


@helper
def ordered_int(memory, i):
    """The bf16 value at index `i` as an integer that sorts like it: LLVM vectorizes a maximum of integers."""
    bits = np.int32(np.int16(memory[i]))
    return bits ^ ((bits >> np.int32(15)) & np.int32(0x7FFF))


@helper
def from_ordered_int(key):
    """The inverse of `ordered_int`, as fp32."""
    bits = key ^ ((key >> np.int32(15)) & np.int32(0x7FFF))
    return bits_to_fp32(np.uint32(bits) << np.uint32(16))


@helper
def exp(x):
    """e^x, with a relative error of 2 ulp for |x| <= 1 and at most 4·10⁻⁶ elsewhere. NaN for NaN.

    0 below -87, where fp32 underflows; clamped to e^88 above 88, where it overflows.

    With n the integer nearest to x / ln 2 and f the remainder, e^x = 2^n · 2^f: the first factor is set as an fp32
    exponent, the second is a polynomial on |f| <= 1/2. A loop that calls this function vectorizes.
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
    result = power * bits_to_fp32(np.uint32(np.int32(whole) + np.int32(127)) << np.uint32(23))
    return F(0.0) if x < F(-87.0) else result
