"""Loops that a thread can run: each is compiled once on a machine, and found again from then on.

What was compiled is kept beside the loop's file, else where the person keeps what can be made again: as a library where
the system has a linker, which to load costs nothing, else as the object file that LLVM made, which it can load.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llamita.errors import UserError
from llamita.files import default_cache, write_atomically
from llamita.jit.cpu import cpu_model
from llamita.jit.language import REWRITES

ENTRY = "loop"
"""What the function is called in its file."""
LIBRARY, OBJECT = ".so", ".o"


class Body:
    """A function of one address, compiled when it first runs."""

    def __init__(self, function: Callable[[Any], None], rewrites: frozenset[str] = REWRITES):
        self.function, self.rewrites = function, rewrites
        self.__doc__ = function.__doc__

    @cached_property
    def address(self) -> int:
        """Where the machine code begins."""
        return self._found() or self._made()

    @cached_property
    def name(self) -> str:
        """Of its files: another one for each version of all that the code depends on."""
        source = Path(self.function.__code__.co_filename)
        what = [self.function.__qualname__, *sorted(self.rewrites), _surroundings()]
        content = hashlib.sha256("\n".join(what).encode() + source.read_bytes()).hexdigest()[:16]
        return f"{source.stem}.{self.function.__name__}-{content}"

    def _found(self) -> int | None:
        for folder in self._folders():
            for suffix in (LIBRARY, OBJECT):
                try:
                    return _load(folder / (self.name + suffix))
                except OSError:  # it is not there, or damaged
                    continue
        return None

    def _made(self) -> int:
        from llamita.jit.compiler import compile_loop  # not before: numba takes a while to import

        _announce()
        code = compile_loop(self.function, self.rewrites, ENTRY)
        for folder in self._folders():
            try:
                return _load(_keep(code, folder, self.name))
            except (OSError, UserError):  # it cannot be written to, or nothing in it may be executed
                continue
        return _load_object(code)

    def _folders(self) -> Iterator[Path]:
        yield Path(self.function.__code__.co_filename).parent / "__pycache__"
        yield default_cache() / "loops"


def exact_body(function: Callable[[Any], None]) -> Body:
    """A loop that is computed just as it is written, where its rounding adds up over the steps of a run."""
    return Body(function, frozenset())


@cache
def _announce() -> None:
    """Say once why it takes a while."""
    print("compiling loops, once on this machine …", file=sys.stderr, flush=True)


def _load(file: Path) -> int:
    """The address of what is in a file. Raises `OSError` where there is no such file, or no such code in it."""
    if file.suffix == OBJECT:
        return _load_object(file.read_bytes())
    address = ctypes.cast(ctypes.CDLL(str(file))[ENTRY], ctypes.c_void_p).value
    assert address is not None, "a function that was found is somewhere"
    return address


def _load_object(code: bytes) -> int:
    from llvmlite import binding  # not before: it takes a while to import

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return engine.get_function_address(ENTRY)


_engines: list[Any] = []
"""Memory with code in it lives as long as its engine."""


def _keep(code: bytes, folder: Path, name: str) -> Path:
    """Write code into a folder -> its file. Raises `OSError` or `UserError` where that cannot be."""
    folder.mkdir(parents=True, exist_ok=True)
    library = _linked(code)
    file = folder / (name + (LIBRARY if library else OBJECT))
    write_atomically(file, library or code)
    return file


def _linked(code: bytes) -> bytes | None:
    """The library of one object file, where there is a linker that makes it."""
    linker = shutil.which("cc") if os.name == "posix" else None
    if linker is None:
        return None
    with TemporaryDirectory() as folder:
        made, library = Path(folder, "loop.o"), Path(folder, "loop.so")
        made.write_bytes(code)
        subprocess.run([linker, "-shared", "-o", library, made, "-lm"], capture_output=True)
        return library.read_bytes() if library.exists() else None


@cache
def _surroundings() -> str:
    """Changes with what loops are written in, what compiles them, and the processor that they are compiled for."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    written = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return "\n".join([written, version("numba"), version("llvmlite"), *cpu_model()])
