"""Typed access to raw memory in kernels: spans of known address and size, bounds-checked in a checked build.

numba's own arrays are reference-counted at each call of a helper, which makes inner loops ten times slower. All
integers are int64: numba promotes an int64 and a uint64 to float64.
"""

from typing import Any, NamedTuple, cast

from numpy import int64

from llamita.jit.language import CHECKED, helper, intrinsic


class Span(NamedTuple):
    """A range of memory: the address of its first byte, and its size in bytes."""

    address: int
    size: int


def _reader(kind: str, size: int, step: int) -> Any:
    """A function (span, i) -> the integer of `size` bytes at byte `step` · i of the span."""
    read = intrinsic("span_load", kind, step)
    if not CHECKED:
        return read

    @helper
    def checked(memory: Span, i: int) -> int:
        if i < 0 or i * step + size > memory.size:
            raise IndexError("a kernel reads outside its memory")
        return read(memory, i)

    return checked


def _writer(kind: str, size: int, step: int) -> Any:
    """A function (span, i, value): write the integer of `size` bytes at byte `step` · i of the span."""
    write = intrinsic("span_store", kind, step)
    if not CHECKED:
        return write

    @helper
    def checked(memory: Span, i: int, value: int) -> None:
        if i < 0 or i * step + size > memory.size:
            raise IndexError("a kernel writes outside its memory")
        write(memory, i, value)

    return checked


byte, u16, u32, i64 = _reader("uint8", 1, 1), _reader("uint16", 2, 2), _reader("uint32", 4, 4), _reader("int64", 8, 8)
"""(span, i) -> item i of a span whose items have the type in the name."""
set_byte, set_u32, set_i64 = _writer("uint8", 1, 1), _writer("uint32", 4, 4), _writer("int64", 8, 8)
"""(span, i, value): set item i."""
eight, set_eight = _reader("int64", 8, 1), _writer("int64", 8, 1)
"""The eight bytes from byte i on as one little-endian integer."""


def constants(first: int, end: int) -> tuple[int, ...]:
    """The integers from `first` to `end` - 1, as int64.

    numba compiles a helper again for each plain int passed as a literal.
    """
    return tuple(cast(int, int64(value)) for value in range(first, end))
