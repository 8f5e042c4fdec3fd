"""Run a compiled kernel on a thread pool.

A `Body` is a function of one address: a table of int64 numbers, of which the first three say how the work is shared
out. Every thread takes the next `at_once` rows until none are left, so a thread that something else delays takes
fewer. What a row computes does not depend on the thread that computes it: results are the same with any number of
threads.

On Linux, where torch is loaded, the threads are those of the OpenMP pool that torch itself uses: a second pool would
fight with it for the cores, since idle OpenMP threads spin. Elsewhere they are Python's; kernels hold no GIL.

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

from llamita.jit.machine_code import Body

NEXT, ROWS, AT_ONCE, FIRST_ARGUMENT = 0, 1, 2, 3
"""Indices of a kernel's table: the next row to take, the number of rows, how many to take at a time, its arguments."""


def run(body: Body, rows: int, at_once: int, *arguments: np.ndarray | int | float, threads: int) -> None:
    """Run a kernel over `rows` rows on at most `threads` threads, each of which takes `at_once` rows at a time.

    The kernel finds `arguments` in its table from FIRST_ARGUMENT on: arrays as the addresses of their first elements,
    floats as the bits of fp64.
    """
    start(body, [0, rows, at_once, *map(as_int64, arguments)], threads)


def start(body: Body, table: Sequence[int], threads: int) -> None:
    """Run a kernel on a table that is complete, on at most `threads` threads; returns when all rows are done."""
    memory = (ctypes.c_int64 * len(table))(*table)
    threads = min(threads, -(-table[ROWS] // table[AT_ONCE]))
    if threads > 1:
        _parallel("torch" in sys.modules)(body.address, ctypes.addressof(memory), threads)
    else:
        _callable(body.address)(ctypes.addressof(memory))


def as_int64(argument: np.ndarray | int | float) -> int:
    """What a table holds of an argument: an int, the bits of a float, the address of an array."""
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
    """A function (body, table, threads) that returns when all threads are done."""
    library = _openmp_of_torch() if has_torch else None
    if library is None:
        return _in_python_threads
    parallel = ctypes.CDLL(library).GOMP_parallel
    parallel.argtypes, parallel.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return lambda body, table, threads: parallel(body, table, threads, 0)


def _openmp_of_torch() -> str | None:
    """The path of GNU's OpenMP library that this process has loaded; torch's comes first."""
    if sys.platform != "linux":
        return None
    with open("/proc/self/maps", encoding="utf-8") as file:
        loaded = {line.split(maxsplit=5)[-1].strip() for line in file if "libgomp" in line}
    return min(loaded, key=lambda path: ("torch" not in path, path), default=None)


def _in_python_threads(body: int, table: int, threads: int) -> None:
    others = [_executor().submit(_callable(body), table) for _ in range(threads - 1)]
    _callable(body)(table)
    wait(others)


@cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="llamita-kernels")
