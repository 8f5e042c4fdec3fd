"""Compile a Python function to machine code, with numba and LLVM."""

from collections.abc import Callable
from functools import cache
from types import CellType, FunctionType
from typing import Any

from llvmlite import binding
from numba import njit, types

from llamita.jit import intrinsics
from llamita.jit.digest import referenced
from llamita.jit.language import FASTMATH, Helper, Intrinsic

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
"""The exported function. In numba's calling convention, results and errors are pointers, and a status is returned."""


def compile_kernel(
    function: Callable[..., Any], parameters: int, fastmath: frozenset[str], name: str, takes_table: bool, checked: bool
) -> bytes:
    """Compile a kernel for this processor -> an object file that exports `name`(arguments, status) -> int64.

    parameters: the number of the kernel's parameters; the entry takes the address of that many int64 values.
    fastmath: LLVM fast-math flags. takes_table: the kernel has one parameter, which is that address. checked: if the
    kernel raises, the entry sets the int32 at `status` to a nonzero value; otherwise it ignores `status`.

    Raises `TypeError` if the kernel returns anything but int64 or None.
    """
    signature = (types.CPointer(types.int64),) if takes_table else (types.int64,) * parameters
    dispatcher = _dispatcher(function, fastmath)
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
    """Make all other symbols internal: numba's names for them differ from process to process."""
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration and value.name != name:
            value.linkage = "internal"


def _load(i: int) -> str:
    """The instructions that load argument i."""
    address = f"%address{i} = getelementptr i64, ptr %arguments, i64 {i}"
    return f"{address}\n  %argument{i} = load i64, ptr %address{i}, align 1"


def _dispatcher(function: Callable[..., Any], fastmath: frozenset[str]) -> Any:
    """numba's dispatcher, which compiles the function once it knows the argument types."""
    options: dict[str, Any] = {"error_model": "numpy", "fastmath": set(fastmath)}
    return njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)(_for_numba(function))  # pyright: ignore[reportCallIssue]


def _for_numba(function: Callable[..., Any]) -> FunctionType:
    """The same function, with our helpers and intrinsics replaced by numba's."""
    code = function.__code__
    used = {name: _numba_value(value) for name, value in referenced(function).items()}
    cells = tuple(CellType(used[name]) for name in code.co_freevars)
    names = {**function.__globals__, **used}
    return FunctionType(code, names, function.__name__, function.__defaults__, cells)


def _numba_value(value: Any) -> Any:
    return _numba_function(value) if isinstance(value, Helper | Intrinsic) else value


@cache
def _numba_function(function: Helper | Intrinsic) -> Any:
    if isinstance(function, Intrinsic):
        return getattr(intrinsics, function.factory)(*function.args)
    return _dispatcher(function.function, FASTMATH)


@cache
def _target_machine() -> binding.TargetMachine:
    """Emits position-independent code, as shared libraries need; the same CPU that numba optimizes for."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(),
        features=binding.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        codemodel="default",
    )
