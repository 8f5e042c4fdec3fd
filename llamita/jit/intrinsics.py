"""LLVM instructions that kernels call as functions.

Each factory takes the arguments given to `language.intrinsic`. numba calls the decorated function with the types of a
call, and expects the signature and a function that emits the instructions.
"""

from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

intrinsic: Any = extending.intrinsic  # pyright would take its types for those of the function it decorates

PAIR_BYTES = 4


def pointer_to(kind: str) -> Any:
    """A function (address) -> pointer to values of type `kind`."""
    target = getattr(types, kind)

    @intrinsic
    def pointer(_: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(target).as_pointer())

        return types.CPointer(target)(types.int64), generate

    return pointer


def bitcast(source_type: str, target_type: str) -> Any:
    """A function (value of one type) -> the value of the other type with the same bits."""
    source, target = getattr(types, source_type), getattr(types, target_type)

    @intrinsic
    def reinterpret(_: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(target))

        return target(source), generate

    return reinterpret


def llvm_function(name: str) -> Any:
    """LLVM's intrinsic `name`, a function of one fp32 value."""

    @intrinsic
    def function(_: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.call(builder.module.declare_intrinsic(name, [ir.FloatType()]), arguments)

        return types.float32(types.float32), generate

    return function


def memcpy(kind: str) -> Any:
    """A function (out, write, memory, read, count): copy `count` values from memory[read] to out[write]."""
    pointer = types.CPointer(getattr(types, kind))

    @intrinsic
    def copy(_: Any, out: Any, write: Any, memory: Any, read: Any, count: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            out, write, memory, read, count = arguments
            cgutils.memcpy(builder, builder.gep(out, [write]), builder.gep(memory, [read]), count)
            return context.get_dummy_value()

        return types.void(pointer, types.int64, pointer, types.int64, types.int64), generate

    return copy


def atomic_add() -> Any:
    """A function (pointer, value): add to an int64 atomically; returns the previous value."""

    @intrinsic
    def add(_: Any, pointer: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.atomic_rmw("add", *arguments, "monotonic")

        return types.int64(types.CPointer(types.int64), types.int64), generate

    return add


def span_load(kind: str, step: int) -> Any:
    """A function (span, i) -> the value of type `kind` at byte `step` · i of the span, as int64.

    It may be unaligned. A span is a named tuple (address, size).
    """
    number = getattr(types, kind)

    @intrinsic
    def load(_: Any, span: Any, i: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = builder.load(_pointer_into(context, builder, number, step, *arguments))
            value.align = 1
            return value if number.bitwidth == 64 else builder.zext(value, context.get_value_type(types.int64))

        return types.int64(span, types.int64), generate

    return load


def span_store(kind: str, step: int) -> Any:
    """A function (span, i, value) that stores the low bits of `value` where `span_load` reads them."""
    number = getattr(types, kind)

    @intrinsic
    def store(_: Any, span: Any, i: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            *place, value = arguments
            value = value if number.bitwidth == 64 else builder.trunc(value, context.get_value_type(number))
            builder.store(value, _pointer_into(context, builder, number, step, *place)).align = 1
            return context.get_dummy_value()

        return types.void(span, types.int64, types.int64), generate

    return store


def _pointer_into(context: Any, builder: Any, kind: Any, step: int, span: Any, i: Any) -> Any:
    """A pointer to byte `step` · i of a span."""
    start = builder.extract_value(span, 0)
    address = builder.add(start, builder.mul(i, context.get_constant(types.int64, step)))
    return builder.inttoptr(address, context.get_value_type(kind).as_pointer())


def tile_matmul(rows: int, vectors: int, lanes: int) -> Any:
    """A function (c, c_row, a, a_row, a_step, b, steps, accumulate) that computes one tile of C: see `tiles.py`.

    The tile has `rows` rows of `vectors` vectors of `lanes` columns. c, a, b are addresses, strides count pairs.
    """

    @intrinsic
    def matmul(_: Any, c: Any, c_row: Any, a: Any, a_row: Any, a_step: Any, b: Any, steps: Any, accumulate: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _Tile(builder, rows, vectors, lanes).generate(*arguments)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7, types.boolean), generate

    return matmul


class _BFloat(ir.Type):
    """bf16, which LLVM has but llvmlite does not expose."""

    def _to_string(self) -> str:
        return "bfloat"


_BF16 = _BFloat()  # a single instance: llvmlite compares these types by identity


class _Tile:
    """The instructions of the micro-kernel: a tile of C whose sums stay in registers over all steps."""

    def __init__(self, builder: Any, rows: int, vectors: int, lanes: int):
        self.builder, self.rows, self.vectors, self.lanes = builder, rows, vectors, lanes
        self.floats, self.pairs = ir.VectorType(ir.FloatType(), lanes), ir.VectorType(ir.IntType(32), lanes)
        self.bf16s = ir.VectorType(_BF16, 2 * lanes)

    def generate(
        self, c: Any, c_row: Any, a: Any, a_row: Any, a_step: Any, b: Any, steps: Any, accumulate: Any
    ) -> None:
        """C (+)= A · B."""
        builder = self.builder
        tile = [(row, vector) for row in range(self.rows) for vector in range(self.vectors)]
        results = {
            (row, vector): self._pointer(c, self.floats, (row, c_row), (vector, self.lanes)) for row, vector in tile
        }
        sums = {
            at: cgutils.alloca_once_value(builder, self._initial(place, accumulate)) for at, place in results.items()
        }
        dot = builder.module.declare_intrinsic(
            f"llvm.x86.avx512bf16.dpbf16ps.{32 * self.lanes}",
            (),
            ir.FunctionType(self.floats, [self.floats, self.bf16s, self.bf16s]),
        )
        with cgutils.for_range(builder, steps) as loop:
            b_vectors = [self._b_vector(b, loop.index, vector) for vector in range(self.vectors)]
            for row in range(self.rows):
                a_pair = self._broadcast(self._pointer(a, ir.IntType(32), (row, a_row), (loop.index, a_step)))
                for vector in range(self.vectors):
                    total = sums[row, vector]
                    builder.store(builder.call(dot, [builder.load(total), a_pair, b_vectors[vector]]), total)
        for at, place in results.items():
            builder.store(builder.load(sums[at]), place, align=PAIR_BYTES)

    def _b_vector(self, b: Any, step: Any, vector: int) -> Any:
        place = self._pointer(b, self.pairs, (step, self.lanes * self.vectors), (vector, self.lanes))
        return self.builder.bitcast(self.builder.load(place, align=PAIR_BYTES), self.bf16s)

    def _pointer(self, address: Any, kind: Any, *terms: tuple[Any, Any]) -> Any:
        """A pointer to `address` plus the sum of index · stride over the terms, in pairs."""
        builder = self.builder
        for index, stride in terms:
            index, stride = (x if isinstance(x, ir.Value) else ir.IntType(64)(x) for x in (index, stride))
            pairs = builder.mul(index, stride)
            address = builder.add(address, builder.mul(pairs, ir.IntType(64)(PAIR_BYTES)))
        return builder.inttoptr(address, kind.as_pointer())

    def _initial(self, place: Any, accumulate: Any) -> Any:
        old = self.builder.load(place, align=PAIR_BYTES)
        return self.builder.select(accumulate, old, ir.Constant(self.floats, None))

    def _broadcast(self, place: Any) -> Any:
        """A vector with the pair at `place` in every lane."""
        undefined = ir.Constant(self.pairs, ir.Undefined)
        one = self.builder.insert_element(undefined, self.builder.load(place), ir.IntType(32)(0))
        return self.builder.bitcast(
            self.builder.shuffle_vector(one, undefined, ir.Constant(self.pairs, None)), self.bf16s
        )
