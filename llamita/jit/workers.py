"""Run a compiled loop on all threads that torch computes with.

A `Body` is a function of one address: a table of numbers (int64), of which the first three say how the work is shared
out. Every thread takes the next `at_once` rows until none are left, so a thread that something else disturbs takes
fewer. What a row computes does not depend on who computes it: results are the same with any number of threads.

On Linux the threads are those of OpenMP that torch itself uses (a second pool would fight with it for the cores, since
OpenMP's threads wait spinning); elsewhere they are Python's, which the loops leave unlocked.
"""

import ctypes
import struct
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import Parameter

from llamita.jit.machine_code import Body

NEXT, ROWS, AT_ONCE, FIRST_ARGUMENT = 0, 1, 2, 3
"""Where in its table a body finds the next row to take, their number, how many to take, and what else it was given."""


def run(body: Body, rows: int, at_once: int, *arguments: Tensor | np.ndarray | int | float) -> None:
    """Let all threads work through `rows` rows, of which each takes `at_once` at a time.

    `arguments` are what the body finds behind the first three numbers of its table: addresses of the first elements of
    tensors and arrays, and numbers, floats as the bits of fp64. Of tensors without values (`FakeTensor`), which only
    tell how much memory would be used, nothing is computed.
    """
    numbers = [0, rows, at_once]
    for argument in arguments:
        kind = type(argument)  # asked in the order of frequency, for small models wait for this
        if kind is Tensor or kind is Parameter:
            numbers.append(argument.data_ptr())  # type: ignore[union-attr]
        elif kind is int:
            numbers.append(argument)  # type: ignore[arg-type]
        elif kind is float:
            numbers.append(struct.unpack("q", struct.pack("d", argument))[0])
        elif has_no_values(argument):
            return
        else:
            numbers.append(argument.data_ptr() if isinstance(argument, Tensor) else argument.ctypes.data)  # type: ignore[union-attr]
    table = (ctypes.c_int64 * len(numbers))(*numbers)
    threads = min(torch.get_num_threads(), -(-rows // at_once))
    if threads > 1:
        _start_together()(body.address, ctypes.addressof(table), threads)
    else:
        _alone(body.address)(ctypes.addressof(table))


def require_within(indices: Tensor, lowest: int, highest: int, what: str) -> None:
    """Raise `IndexError` for an index outside of these: a loop would read and write what is not its own."""
    if has_no_values(indices) or not indices.numel():
        return
    for index in map(int, indices.aminmax()):
        if not lowest <= index <= highest:
            raise IndexError(f"{what} is {index}, but must be from {lowest} to {highest}")


def has_no_values(argument: object) -> bool:
    """Whether this is a tensor that only tells its shape, and what memory it would take."""
    return isinstance(argument, FakeTensor)


@cache
def _alone(address: int) -> Any:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


@cache
def _start_together() -> Callable[[int, int, int], None]:
    """A function (body, table, threads) that returns when all threads are done."""
    library = _openmp_of_torch()
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
    others = [_pool().submit(_alone(body), table) for _ in range(threads - 1)]
    _alone(body)(table)
    wait(others)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="llamita-kernels")
