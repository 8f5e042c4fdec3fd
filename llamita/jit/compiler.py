"""From a loop in Python to machine code, by numba and LLVM."""

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

from llvmlite import binding
from numba import njit, types

from llamita.jit import intrinsics
from llamita.jit.language import REWRITES, Helper, Intrinsic

ENTRY = """
define void @{name}(ptr %table) {{
  %result = alloca ptr
  %error = alloca ptr
  call i32 @"{compiled}"(ptr %result, ptr %error, ptr %table)
  ret void
}}
"""
"""What is called from outside: numba's functions want places for a result and an error, of which loops have neither."""


def compile_loop(function: Callable[[Any], None], rewrites: frozenset[str], name: str) -> bytes:
    """The object file of a function (address of int64), which is called so there; made for this processor."""
    arguments, loop = (types.CPointer(types.int64),), _compiled(function, rewrites)
    loop.compile(arguments)
    (compiled,) = loop.overloads.values()
    text = loop.inspect_llvm(arguments) + ENTRY.format(name=name, compiled=compiled.fndesc.llvm_func_name)
    return _target_machine().emit_object(binding.parse_assembly(text))


def _compiled(function: Callable[..., Any], rewrites: frozenset[str]) -> Any:
    """What numba compiles when it learns the types of the arguments."""
    options: dict[str, Any] = {"error_model": "numpy", "fastmath": set(rewrites)}
    return njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)(_spelled_out(function))  # pyright: ignore[reportCallIssue]


def _spelled_out(function: Callable[..., Any]) -> FunctionType:
    """The same function, whose helpers and intrinsics are such as numba knows."""
    code, names = function.__code__, function.__globals__
    used = {name: _known_to_numba(names[name]) for name in code.co_names if name in names}
    return FunctionType(code, {**names, **used}, function.__name__, function.__defaults__, function.__closure__)


def _known_to_numba(value: Any) -> Any:
    return _made(value) if isinstance(value, Helper | Intrinsic) else value


@cache
def _made(word: Helper | Intrinsic) -> Any:
    if isinstance(word, Intrinsic):
        return getattr(intrinsics, word.factory)(*word.given)
    return _compiled(word.function, REWRITES)


@cache
def _target_machine() -> binding.TargetMachine:
    """For code that may lie anywhere, as libraries do; numba optimizes for the same processor."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(),
        features=binding.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        codemodel="default",
    )
