"""From a Python function to machine code, by numba and LLVM."""

from collections.abc import Callable
from functools import cache
from types import CellType, FunctionType
from typing import Any

from llvmlite import binding
from numba import njit, types

from llamita.jit import intrinsics
from llamita.jit.digest import referenced
from llamita.jit.language import REWRITES, Helper, Intrinsic

ENTRY = """
define i64 @{name}(ptr %arguments, ptr %status) {{
  %result = alloca i64
  %error = alloca ptr
  store i64 0, ptr %result
  {loads}
  %code = call i32 @"{compiled}"(ptr %result, ptr %error, {arguments})
  {report}
  %value = load i64, ptr %result
  ret i64 %value
}}
"""
"""What is called from outside. numba's own functions take pointers to a result and an error, and return a status."""


def compile_kernel(
    function: Callable[..., Any], parameters: int, rewrites: frozenset[str], name: str, takes_table: bool, checked: bool
) -> bytes:
    """The object file of a kernel for this processor, with an entry `name` (arguments, status) -> int64.

    parameters: how many the kernel has; the entry takes the address of as many int64 numbers. takes_table: the kernel
    has one parameter, which is that address. checked: the entry sets the int32 at the address `status` to a value
    besides 0 where the kernel raises an error; without it, it ignores `status`.

    Raises `TypeError` where the kernel returns anything but int64 or None.
    """
    signature = (types.CPointer(types.int64),) if takes_table else (types.int64,) * parameters
    dispatcher = _dispatcher(function, rewrites)
    dispatcher.compile(signature)
    (compiled,) = dispatcher.overloads.values()
    if compiled.signature.return_type not in (types.int64, types.none):
        raise TypeError(f"{function.__name__} returns {compiled.signature.return_type}, not int64 or None")
    arguments = ["ptr %arguments"] if takes_table else [f"i64 %argument{i}" for i in range(parameters)]
    entry = ENTRY.format(
        name=name,
        compiled=compiled.fndesc.llvm_func_name,
        loads="" if takes_table else "\n".join(map(_load, range(parameters))),
        arguments=", ".join(arguments),
        report="store i32 %code, ptr %status" if checked else "",
    )
    module = binding.parse_assembly(dispatcher.inspect_llvm(signature) + entry)
    _hide_all_but(name, module)
    return _target_machine().emit_object(module)


def _hide_all_but(name: str, module: binding.ModuleRef) -> None:
    """Keep other symbols out of the library: numba gives them names that differ from process to process."""
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration and value.name != name:
            value.linkage = "internal"


def _load(i: int) -> str:
    """The instructions that load argument i."""
    address = f"%address{i} = getelementptr i64, ptr %arguments, i64 {i}"
    return f"{address}\n  %argument{i} = load i64, ptr %address{i}, align 1"


def _dispatcher(function: Callable[..., Any], rewrites: frozenset[str]) -> Any:
    """What numba compiles once it knows the types of the arguments."""
    options: dict[str, Any] = {"error_model": "numpy", "fastmath": set(rewrites)}
    return njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)(_for_numba(function))  # pyright: ignore[reportCallIssue]


def _for_numba(function: Callable[..., Any]) -> FunctionType:
    """The same function, with its helpers and intrinsics replaced by what numba knows."""
    code = function.__code__
    used = {name: _known_to_numba(value) for name, value in referenced(function).items()}
    cells = tuple(CellType(used[name]) for name in code.co_freevars)
    names = {**function.__globals__, **used}
    return FunctionType(code, names, function.__name__, function.__defaults__, cells)


def _known_to_numba(value: Any) -> Any:
    return _made(value) if isinstance(value, Helper | Intrinsic) else value


@cache
def _made(word: Helper | Intrinsic) -> Any:
    if isinstance(word, Intrinsic):
        return getattr(intrinsics, word.factory)(*word.given)
    return _dispatcher(word.function, REWRITES)


@cache
def _target_machine() -> binding.TargetMachine:
    """For position-independent code, as libraries need; numba optimizes for the same processor."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(),
        features=binding.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        codemodel="default",
    )
