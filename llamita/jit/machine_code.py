"""Kernels: Python functions that are compiled once per machine, then loaded from the cache.

The cache holds shared libraries where the system has a linker: loading one costs nothing. Elsewhere it holds the object
files that LLVM emits, which llvmlite can load. Without a writable cache, each process compiles.
"""

import ctypes
import importlib.util
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llamita.jit import code_cache
from llamita.jit.digest import digest
from llamita.jit.language import CHECKED, FASTMATH
from llamita.jit.object_file import load_object

ENTRY = "kernel"
"""The exported symbol."""
LIBRARY, OBJECT = ".so", ".o"
COMPILERS = "numba", "llvmlite"
OWN = __name__.partition(".")[0] + "."

_defined: "list[Kernel]" = []
_compiling = threading.RLock()


class Kernel:
    """A function of int64 values that returns an int64 or None, compiled when it first runs. Used as a decorator.

    A call releases the GIL. None is returned as 0. In a checked build (LLAMITA_CHECKED_KERNELS=1) it raises
    `IndexError` for an access outside a span; such builds are never cached.
    """

    takes_table = False
    checked = CHECKED

    def __init__(self, function: Callable[..., Any], fastmath: frozenset[str] = FASTMATH):
        self.function, self.fastmath = function, fastmath
        self.parameters = len(signature(function).parameters)
        self.__doc__ = function.__doc__
        if function.__module__.startswith(OWN):
            _defined.append(self)

    def __call__(self, *arguments: int) -> int:
        """Run the kernel."""
        return self.run(*arguments)

    def is_compiled(self) -> bool:
        """Whether the code is in the cache, or loaded already; loads it. Needs no compiler."""
        if "address" not in self.__dict__ and (found := self._load()) is not None:
            self.__dict__["address"] = found
        return "address" in self.__dict__

    def compile(self) -> None:
        """Compile or load the code now, rather than when it first runs."""
        _ = self.address

    @cached_property
    def address(self) -> int:
        """The entry point. Raises `ImportError` if the kernel must be compiled and numba is missing."""
        with _compiling:
            return self._load() or self._compile()

    @property
    def name(self) -> str:
        """The name in the cache, without the key. Bytecode differs between Python versions, so it has the version."""
        return f"{self.function.__module__}.{self.function.__name__}.{sys.implementation.cache_tag}"

    @cached_property
    def key(self) -> str:
        """The digest of everything the code depends on."""
        facts = type(self).__name__, str(self.parameters), *sorted(self.fastmath)
        return digest(self.function, *facts)

    @property
    def _source(self) -> Path:
        return Path(self.function.__code__.co_filename)

    def _load(self) -> int | None:
        """The address of the code in the cache, or None."""
        if self.checked:
            return None
        return _first_loaded(code_cache.find(self._source, self.name, self.key))

    def _compile(self) -> int:
        from llamita.jit.compiler import compile_kernel  # numba is slow to import

        _announce()
        code = compile_kernel(self.function, self.parameters, self.fastmath, ENTRY, self.takes_table, self.checked)
        return (None if self.checked else self._cache(code)) or load_object(code, ENTRY)

    def _cache(self, code: bytes) -> int | None:
        """Write the code to the cache and load it from there -> its address; None if that is not possible."""
        library = _linked(code)
        content, suffix = (code, OBJECT) if library is None else (library, LIBRARY)
        return _first_loaded(code_cache.save(self._source, self.name, self.key, content, suffix))

    @cached_property
    def run(self) -> Callable[..., int]:
        """The kernel as a plain function, with less call overhead.

        Arguments are packed into bytes: ctypes takes longer to convert several ints than to make the call.
        """
        pack = struct.Struct(f"{self.parameters}q").pack
        call = self._call_checked if self.checked else ctypes.CFUNCTYPE(ctypes.c_int64)(self.address)
        return lambda *arguments: call(pack(*arguments))

    def _call_checked(self, arguments: bytes) -> int:
        call, status = ctypes.CFUNCTYPE(ctypes.c_int64)(self.address), ctypes.c_int32()
        result = call(arguments, ctypes.byref(status))
        if status.value:
            raise IndexError(f"{self.name} accesses memory outside a span")
        return result


class ParallelKernel(Kernel):
    """A kernel over rows, whose one argument is the address of a table of int64 values. `pool.run` runs it."""

    takes_table, checked = True, False


def strict_fp_kernel(function: Callable[[Any], None]) -> ParallelKernel:
    """A `ParallelKernel` compiled without fast-math: floating-point operations run exactly as written.

    For kernels whose rounding errors accumulate over the steps of a run.
    """
    return ParallelKernel(function, frozenset())


def defined_kernels() -> list[Kernel]:
    """All kernels in the modules of this package imported so far."""
    return list(_defined)


@cache
def can_compile() -> bool:
    """Whether numba and llvmlite can be imported. Imports them only if no compiled kernel shows that they work."""
    if any(_is_missing(name) for name in COMPILERS):
        return False
    if any(kernel.is_compiled() for kernel in _defined):
        return True
    try:
        importlib.import_module("llamita.jit.compiler")
    except (ImportError, OSError):  # OSError: llvmlite cannot find its library
        return False
    return True


@cache
def explain_missing_numba() -> None:
    """Say once that nothing gets compiled, and what to do."""
    print(
        "numba cannot be imported: falling back to plain torch and Python, which are slower than compiled kernels; "
        "pip install numba",
        file=sys.stderr,
        flush=True,
    )


def _is_missing(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except (ImportError, ValueError):
        return True


@cache
def _announce() -> None:
    """Say once why this takes a while."""
    print("compiling kernels, once per machine …", file=sys.stderr, flush=True)


def _first_loaded(files: Iterator[Path]) -> int | None:
    """The address in the first file that can be loaded. Some file systems are mounted noexec."""
    for file in files:
        try:
            return load_object(file.read_bytes(), ENTRY) if file.suffix == OBJECT else _load_library(file)
        except (OSError, ImportError, AttributeError):
            continue
    return None


def _load_library(file: Path) -> int | None:
    return ctypes.cast(ctypes.CDLL(str(file))[ENTRY], ctypes.c_void_p).value


def _linked(code: bytes) -> bytes | None:
    """The object file linked into a shared library; None without a working linker."""
    linker = None if sys.platform == "win32" else shutil.which("cc")
    if linker is None:
        return None
    try:
        with TemporaryDirectory() as folder:
            object_file, library = Path(folder, "kernel.o"), Path(folder, "kernel.so")
            object_file.write_bytes(code)
            subprocess.run([linker, "-shared", "-Wl,-x", "-o", library, object_file, "-lm"], capture_output=True)
            return library.read_bytes() if library.exists() else None
    except OSError:  # no space for temporary files
        return None
