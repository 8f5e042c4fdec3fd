"""What kernels are written in: loops in Python that become machine code, and run on all threads.

`language.py` has the words, `numbers.py` and `tiles.py` what they are mostly used for: bf16 in memory, and products of
it. `machine_code.py` finds what a loop was compiled to, or has `compiler.py` compile it, which alone needs numba and
LLVM. `pool.py` runs it on all threads. Nothing here imports torch.
"""
