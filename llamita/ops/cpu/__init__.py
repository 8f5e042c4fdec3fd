"""Fused bf16 kernels for the CPU: one pass over memory where torch makes several.

Each file is one operation, with forward and backward written by hand as Python loops that `jit` compiles.
`ops/__init__.py` dispatches to them. Results are bitwise the same for any number of threads.
"""

from llamita.ops.cpu import attention, cross_entropy, linear, norm, rope, swiglu

__all__ = ["attention", "cross_entropy", "linear", "norm", "rope", "swiglu"]
