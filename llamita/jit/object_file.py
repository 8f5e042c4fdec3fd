"""Load object files, as LLVM emits them, where there is no linker or no writable cache."""

from typing import Any

_engines: list[Any] = []
"""Keeps the engines alive: they own the code."""


def load_object(code: bytes, entry: str) -> int:
    """The address of the function `entry` of an object file. Raises `ImportError` without llvmlite."""
    from llvmlite import binding  # slow to import

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return engine.get_function_address(entry)


def host_has(feature: str) -> bool:
    """Whether the processor has a feature, by its LLVM name, e.g. "avx512bf16"; False without llvmlite."""
    try:
        from llvmlite import binding
    except (ImportError, OSError):
        return False
    return bool(binding.get_host_cpu_features().get(feature))
