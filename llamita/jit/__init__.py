"""JIT-compile Python functions to machine code, once per machine: the kernels of `ops/cpu` and of the tokenizer.

`language.py` and `primitives.py` have what kernels are written with, `tiles.py` bf16 matrix multiplication, `spans.py`
bounds-checked memory. `machine_code.py` loads a kernel from the cache (`code_cache.py`, `digest.py`) or has
`compiler.py` compile it, which alone imports numba. `pool.py` runs it on a thread pool. Nothing here imports torch.
"""

from functools import cache

from llamita.jit.machine_code import Kernel, can_compile, defined_kernels, explain_missing_numba


@cache
def available(*kernels: Kernel) -> bool:
    """Whether kernels can run: all are already compiled, or numba can be imported to compile them.

    kernels: default: all kernels of this package that are defined when this is first called without arguments, so
    import them first. The result is cached for the process. If it is False, the first call prints one line to stderr,
    and callers fall back to plain torch or Python.

    >>> available()
    True
    """
    requested = kernels or defined_kernels()
    compiled = [kernel.is_compiled() for kernel in requested]
    if (compiled and all(compiled)) or can_compile():
        return True
    explain_missing_numba()
    return False
