"""Fused kernels of the operations for bf16 on a CPU: one pass over memory where torch makes several.

Each file is one operation with its mathematics, forward and backward by hand, as Python loops that `jit` compiles.
`ops/__init__.py` decides when they compute. Results do not depend on the number of threads.
"""

from llamita.ops.cpu import attention, cross_entropy, linear, norm, rope, swiglu

__all__ = ["attention", "cross_entropy", "linear", "norm", "rope", "swiglu"]
