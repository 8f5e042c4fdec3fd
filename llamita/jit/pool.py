"""Run a compiled kernel on a thread pool, with dynamic scheduling.

A `ParallelKernel` takes the address of a table of int64 numbers: the next row, the number of rows, the chunk size, then
the arguments. Each thread claims the next chunk of rows until none are left, so a thread that the OS preempts computes
fewer of them. A row's result does not depend on the thread that computes it: results are bitwise the same for any
number of threads.

On Linux with torch loaded, kernels run on torch's own OpenMP threads. A second pool would compete with them for the
cores, since idle OpenMP threads spin. Elsewhere they run on Python threads; kernels release the GIL.

Nothing here imports torch. `llamita.ops.cpu.launch` passes tensors.
"""

import ctypes
import struct
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import numpy as np

from llamita.jit.machine_code import ParallelKernel

NEXT_ROW, NUM_ROWS, CHUNK_SIZE, ARGS = 0, 1, 2, 3
"""Indices into a kernel's table: the next row to claim, the number of rows, rows per chunk, the first argument."""


def run(kernel: ParallelKernel, rows: int, chunk_size: int, *arguments: np.ndarray | int | float, threads: int) -> None:
    """Run a kernel over `rows` rows on at most `threads` threads, which claim `chunk_size` rows at a time.

    The kernel finds `arguments` in its table from ARGS on: arrays as the address of their first element, floats as the
    bits of fp64.
    """
    run_table(kernel, [0, rows, chunk_size, *map(as_int64, arguments)], threads)


def run_table(kernel: ParallelKernel, table: Sequence[int], threads: int) -> None:
    """Run a kernel on a complete table, on at most `threads` threads; returns when all rows are done."""
    memory = (ctypes.c_int64 * len(table))(*table)
    threads = min(threads, -(-table[NUM_ROWS] // table[CHUNK_SIZE]))
    if threads > 1:
        _parallel("torch" in sys.modules)(kernel.address, ctypes.addressof(memory), threads)
    else:
        _callable(kernel.address)(ctypes.addressof(memory))


def as_int64(argument: np.ndarray | int | float) -> int:
    """An argument as the table holds it: an int itself, a float's bits, an array's address."""
    if isinstance(argument, int):
        return argument
    if isinstance(argument, float):
        return struct.unpack("q", struct.pack("d", argument))[0]
    return argument.ctypes.data


@cache
def _callable(address: int) -> Any:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


@cache
def _parallel(has_torch: bool) -> Callable[[int, int, int], None]:
    """A function (kernel, table, threads) that returns when all threads are done."""
    library = _openmp_of_torch() if has_torch else None
    if library is None:
        return _in_python_threads
    parallel = ctypes.CDLL(library).GOMP_parallel
    parallel.argtypes, parallel.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return lambda kernel, table, threads: parallel(kernel, table, threads, 0)


def _openmp_of_torch() -> str | None:
    """The path of the GNU OpenMP library loaded in this process, torch's own if there are several."""
    if sys.platform != "linux":
        return None
    with open("/proc/self/maps", encoding="utf-8") as file:
        loaded = {line.split(maxsplit=5)[-1].strip() for line in file if "libgomp" in line}
    return min(loaded, key=lambda path: ("torch" not in path, path), default=None)


def _in_python_threads(kernel: int, table: int, threads: int) -> None:
    others = [_executor().submit(_callable(kernel), table) for _ in range(threads - 1)]
    _callable(kernel)(table)
    wait(others)


@cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="llamita-kernels")
