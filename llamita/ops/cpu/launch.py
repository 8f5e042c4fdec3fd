"""Launch fused kernels on tensors, on as many threads as torch uses."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import Parameter

from llamita.jit import pool
from llamita.jit.machine_code import ParallelKernel
from llamita.jit.pool import as_int64


def launch(kernel: ParallelKernel, rows: int, chunk_size: int, *arguments: Tensor | np.ndarray | int | float) -> None:
    """Run a kernel over `rows` rows on torch's threads, which claim `chunk_size` rows at a time.

    `arguments` become int64 values in the kernel's table, from `ARGS` on: tensors and arrays as the address of their
    first element, floats as the bits of fp64. Computes nothing if one of them is a `FakeTensor`.
    """
    table = [0, rows, chunk_size]
    for argument in arguments:
        kind = type(argument)  # most frequent first: small models are bound by launch overhead
        if kind is Tensor or kind is Parameter:
            table.append(argument.data_ptr())  # type: ignore[union-attr]
        elif kind is int:
            table.append(argument)  # type: ignore[arg-type]
        elif is_fake(argument):
            return
        else:
            table.append(argument.data_ptr() if isinstance(argument, Tensor) else as_int64(argument))
    pool.run_table(kernel, table, torch.get_num_threads())


def check_bounds(indices: Tensor, lowest: int, highest: int, what: str) -> None:
    """Raise `IndexError` for an index outside `lowest` to `highest`: a kernel would access memory out of bounds.

    `what` names the indices in the message.
    """
    if is_fake(indices) or not indices.numel():
        return
    for index in map(int, indices.aminmax()):
        if not lowest <= index <= highest:
            raise IndexError(f"{what} is {index}, but must be from {lowest} to {highest}")


def is_fake(argument: object) -> bool:
    """Whether this is a `FakeTensor`: a shape and a dtype without memory."""
    return isinstance(argument, FakeTensor)


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the backward pass of a fused kernel, which autograd cannot differentiate: refuse `create_graph`.

    torch's own `once_differentiable` does the same, but costs a small model 2 % of its step.
    """

    @wraps(backward)
    def checked(*arguments: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError('fused kernels have no second derivative: compute under `ops.backend("plain")`')
        return backward(*arguments)

    return checked
