"""The LLVM instructions that kernels call as functions.

A factory makes one of what `language.intrinsic` is given. numba calls what is decorated with the types of a call, and
expects the signature and a function that generates the call's instructions.
"""

from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

intrinsic: Any = extending.intrinsic  # whose types pyright takes for those of the function it decorates

BYTES_OF_PAIR = 4


def pointer_to(kind: str) -> Any:
    """A function (address) -> the numbers at that address, as an array without an end."""
    target = getattr(types, kind)

    @intrinsic
    def pointer(_: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(target).as_pointer())

        return types.CPointer(target)(types.int64), generate

    return pointer


def same_bits(given: str, seen: str) -> Any:
    """A function (number of one type) -> the number of another type that has the same bits."""
    source, target = getattr(types, given), getattr(types, seen)

    @intrinsic
    def reinterpret(_: Any, number: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(target))

        return target(source), generate

    return reinterpret


def of_llvm(name: str) -> Any:
    """LLVM's function `name` of an fp32 number."""

    @intrinsic
    def function(_: Any, number: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.call(builder.module.declare_intrinsic(name, [ir.FloatType()]), arguments)

        return types.float32(types.float32), generate

    return function


def copying(kind: str) -> Any:
    """A function (out, write, memory, read, count): copy `count` numbers from memory[read] to out[write]."""
    there = types.CPointer(getattr(types, kind))

    @intrinsic
    def copy(_: Any, out: Any, write: Any, memory: Any, read: Any, count: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            out, write, memory, read, count = arguments
            cgutils.memcpy(builder, builder.gep(out, [write]), builder.gep(memory, [read]), count)
            return context.get_dummy_value()

        return types.void(there, types.int64, there, types.int64, types.int64), generate

    return copy


def adding_together() -> Any:
    """A function (pointer, number): add to an int64 atomically -> its value before."""

    @intrinsic
    def add(_: Any, pointer: Any, number: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.atomic_rmw("add", *arguments, "monotonic")

        return types.int64(types.CPointer(types.int64), types.int64), generate

    return add


def reading(kind: str, step: int) -> Any:
    """A function (span, i) -> the number of type `kind`, as int64, that begins `step` · i bytes after the span does.

    It need not be aligned. A span is a named tuple (address, size).
    """
    number = getattr(types, kind)

    @intrinsic
    def read(_: Any, span: Any, i: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = builder.load(_pointer_into(context, builder, number, step, *arguments))
            value.align = 1
            return value if number.bitwidth == 64 else builder.zext(value, context.get_value_type(types.int64))

        return types.int64(span, types.int64), generate

    return read


def writing(kind: str, step: int) -> Any:
    """A function (span, i, value) that writes the lowest bits of `value` where `reading` reads them."""
    number = getattr(types, kind)

    @intrinsic
    def write(_: Any, span: Any, i: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            *place, value = arguments
            value = value if number.bitwidth == 64 else builder.trunc(value, context.get_value_type(number))
            builder.store(value, _pointer_into(context, builder, number, step, *place)).align = 1
            return context.get_dummy_value()

        return types.void(span, types.int64, types.int64), generate

    return write


def _pointer_into(context: Any, builder: Any, kind: Any, step: int, span: Any, i: Any) -> Any:
    """A pointer to what begins `step` · i bytes after the beginning of a span."""
    start = builder.extract_value(span, 0)
    address = builder.add(start, builder.mul(i, context.get_constant(types.int64, step)))
    return builder.inttoptr(address, context.get_value_type(kind).as_pointer())


def tile_product(rows: int, vectors: int, lanes: int) -> Any:
    """A function (c, c_row, a, a_row, a_step, b, steps, adds) that computes a tile of C: see `tiles.py`.

    It has so many rows of so many vectors. c, a, b are addresses, distances are counted in pairs.
    """

    @intrinsic
    def product(_: Any, c: Any, c_row: Any, a: Any, a_row: Any, a_step: Any, b: Any, steps: Any, adds: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _Tile(builder, rows, vectors, lanes).generate(*arguments)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7, types.boolean), generate

    return product


class _BFloat(ir.Type):
    """bf16, which LLVM knows and llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"


_BF16 = _BFloat()  # only one: types that are not the same are not equal


class _Tile:
    """The instructions of a tile of C: its sums stay in registers while steps go by."""

    def __init__(self, builder: Any, rows: int, vectors: int, lanes: int):
        self.builder, self.rows, self.vectors, self.lanes = builder, rows, vectors, lanes
        self.floats, self.pairs = ir.VectorType(ir.FloatType(), lanes), ir.VectorType(ir.IntType(32), lanes)
        self.halves = ir.VectorType(_BF16, 2 * lanes)

    def generate(self, c: Any, c_row: Any, a: Any, a_row: Any, a_step: Any, b: Any, steps: Any, adds: Any) -> None:
        """C (+)= A · B."""
        builder = self.builder
        tile = [(row, vector) for row in range(self.rows) for vector in range(self.vectors)]
        results = {
            (row, vector): self._place(c, self.floats, (row, c_row), (vector, self.lanes)) for row, vector in tile
        }
        sums = {at: cgutils.alloca_once_value(builder, self._old(place, adds)) for at, place in results.items()}
        dot = builder.module.declare_intrinsic(
            f"llvm.x86.avx512bf16.dpbf16ps.{32 * self.lanes}",
            (),
            ir.FunctionType(self.floats, [self.floats, self.halves, self.halves]),
        )
        with cgutils.for_range(builder, steps) as loop:
            ours = [self._vector_of_b(b, loop.index, vector) for vector in range(self.vectors)]
            for row in range(self.rows):
                theirs = self._everywhere(self._place(a, ir.IntType(32), (row, a_row), (loop.index, a_step)))
                for vector in range(self.vectors):
                    total = sums[row, vector]
                    builder.store(builder.call(dot, [builder.load(total), theirs, ours[vector]]), total)
        for at, place in results.items():
            builder.store(builder.load(sums[at]), place, align=BYTES_OF_PAIR)

    def _vector_of_b(self, b: Any, step: Any, vector: int) -> Any:
        place = self._place(b, self.pairs, (step, self.lanes * self.vectors), (vector, self.lanes))
        return self.builder.bitcast(self.builder.load(place, align=BYTES_OF_PAIR), self.halves)

    def _place(self, address: Any, kind: Any, *ways: tuple[Any, Any]) -> Any:
        """A pointer to `address` plus the sum of times · distance, in pairs."""
        builder = self.builder
        for times, distance in ways:
            times, distance = (x if isinstance(x, ir.Value) else ir.IntType(64)(x) for x in (times, distance))
            pairs = builder.mul(times, distance)
            address = builder.add(address, builder.mul(pairs, ir.IntType(64)(BYTES_OF_PAIR)))
        return builder.inttoptr(address, kind.as_pointer())

    def _old(self, place: Any, adds: Any) -> Any:
        there = self.builder.load(place, align=BYTES_OF_PAIR)
        return self.builder.select(adds, there, ir.Constant(self.floats, None))

    def _everywhere(self, place: Any) -> Any:
        """A vector of the same pair in all its places."""
        nothing = ir.Constant(self.pairs, ir.Undefined)
        one = self.builder.insert_element(nothing, self.builder.load(place), ir.IntType(32)(0))
        return self.builder.bitcast(
            self.builder.shuffle_vector(one, nothing, ir.Constant(self.pairs, None)), self.halves
        )
