"""The cache key of a kernel: a digest of everything its machine code depends on.

It covers the bytecode of the function and, recursively, of all helpers it calls, in whatever module; the values of the
constants they use; and the environment: this package, numba, LLVM and the processor. It hashes bytecode, not source
files: if a file is edited while a process runs, the process still compiles the old code.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numpy as np

from llamita.jit.cpu import cpu_model
from llamita.jit.language import Helper, Intrinsic

LIBRARIES = "math", "numpy"
"""Modules whose attributes kernels may use. From others, whose attributes may change, import names instead."""
CONSTANTS = bool, int, float, str, bytes, tuple, np.generic


def digest(function: Callable[..., Any], *facts: str) -> str:
    """16 hexadecimal digits that change with the function, what it calls, the environment and `facts`.

    Raises `TypeError` where the function takes values from a module object other than numpy and math.
    """
    content = "\n".join([*facts, *_environment(), *_describe(function, set())])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _describe(function: Callable[..., Any], seen: set[CodeType]) -> Iterator[str]:
    """The bytecode of a function and of all helpers it calls, each once, and the constants they use."""
    code = function.__code__
    if code in seen:
        return
    seen.add(code)
    yield from (code.co_name, *_bytecode(code), repr(function.__defaults__))
    for name, value in sorted(referenced(function).items()):
        if isinstance(value, Helper):
            yield from _describe(value.function, seen)
        else:
            yield f"{name} = {_constant(name, value)}"


def referenced(function: Callable[..., Any]) -> dict[str, Any]:
    """The globals and closure variables that a function refers to, by name."""
    code = function.__code__
    found = {name: function.__globals__[name] for name in _names(code) if name in function.__globals__}
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    return found | {name: cell.cell_contents for name, cell in cells}


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _bytecode(code: CodeType) -> Iterator[str]:
    """A code object without its file, line numbers and the addresses of nested code objects."""
    constants = [value for value in code.co_consts if not isinstance(value, CodeType | str)]  # strings are docstrings
    yield f"{code.co_code.hex()} {constants!r} {code.co_names} {code.co_varnames} {code.co_freevars}"
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _bytecode(value)


def _constant(name: str, value: Any) -> str:
    if isinstance(value, Intrinsic):
        return f"{value.factory}{value.args}"
    if isinstance(value, ModuleType) and value.__name__ not in LIBRARIES:
        raise TypeError(f"a kernel uses the module {value.__name__} as {name}; import the names it needs instead")
    if isinstance(value, type):
        return f"{value.__qualname__}{getattr(value, '_fields', '')}"
    return repr(value) if isinstance(value, CONSTANTS) else type(value).__name__


@cache
def _environment() -> list[str]:
    """The compiler, its versions, and the target processor."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    content = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    return [content, *map(_version, ("numba", "llvmlite")), *cpu_model()]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
