"""JIT-compile Python functions to machine code once per machine, and run them: kernels of `ops/cpu` and the tokenizer.

`language.py` has the words that kernels are written in; `numbers.py`, `tiles.py` and `spans.py` what they are mostly
used for: bf16 in memory, matrix products of bf16, bounds-checked memory. `machine_code.py` finds a kernel's code in the
cache (`code_cache.py`, `digest.py`) or has `compiler.py` compile it, which alone imports numba. `pool.py` runs it on a
thread pool. Nothing here imports torch.
"""

from functools import cache

from llamita.jit.machine_code import Kernel, can_compile, defined_kernels, explain_missing_numba


@cache
def available(*kernels: Kernel) -> bool:
    """Whether kernels can run: all of them are compiled already, or numba can be imported to compile them.

    kernels: those that are asked about; by default all of this package that are defined when this is first asked
    without arguments, so import them first. The answer holds for the process. Where it is False, the first call prints
    one line to stderr that says so, and callers fall back to plain torch or Python.

    >>> available()
    True
    """
    asked = kernels or defined_kernels()
    compiled = [kernel.is_compiled() for kernel in asked]
    if (compiled and all(compiled)) or can_compile():
        return True
    explain_missing_numba()
    return False
