"""Memory of several types for kernels: spans, known by address and size, and bounds-checked in a checked build.

numba's own arrays count references at each call of a helper, which makes inner loops ten times slower. Numbers are
int64 throughout: numba makes floats of an int64 and a uint64.
"""

from typing import Any, NamedTuple, cast

from numpy import int64

from llamita.jit.language import CHECKED, helper, intrinsic


class Span(NamedTuple):
    """A range of memory: the address of its first byte, and its size in bytes."""

    address: int
    size: int


def _reader(kind: str, size: int, step: int) -> Any:
    """A function (span, i) -> the number of `size` bytes at byte `step` · i of the span."""
    read = intrinsic("reading", kind, step)
    if not CHECKED:
        return read

    @helper
    def checked(memory: Span, i: int) -> int:
        if i < 0 or i * step + size > memory.size:
            raise IndexError("a kernel reads outside its memory")
        return read(memory, i)

    return checked


def _writer(kind: str, size: int, step: int) -> Any:
    """A function (span, i, value): write the number of `size` bytes at byte `step` · i of the span."""
    write = intrinsic("writing", kind, step)
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
"""The eight bytes from byte i on as one number, the first byte lowest."""


def constants(first: int, end: int) -> tuple[int, ...]:
    """The integers from `first` to `end` - 1, as int64.

    numba compiles a helper anew for each plain int that it is given as a literal.
    """
    return tuple(cast(int, int64(value)) for value in range(first, end))
