"""Launch fused kernels on tensors, on as many threads as torch computes with."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import Parameter

from llamita.jit import pool
from llamita.jit.machine_code import Body
from llamita.jit.pool import as_int64


def run(body: Body, rows: int, at_once: int, *arguments: Tensor | np.ndarray | int | float) -> None:
    """Run a kernel over `rows` rows on torch's threads, each of which takes `at_once` rows at a time.

    `arguments` become int64 numbers in the kernel's table, from `FIRST_ARGUMENT` on: tensors and arrays the addresses
    of their first elements, floats the bits of fp64. Nothing is computed where one of them is a `FakeTensor`.
    """
    table = [0, rows, at_once]
    for argument in arguments:
        kind = type(argument)  # in order of frequency: the launch is what small models wait for
        if kind is Tensor or kind is Parameter:
            table.append(argument.data_ptr())  # type: ignore[union-attr]
        elif kind is int:
            table.append(argument)  # type: ignore[arg-type]
        elif has_no_values(argument):
            return
        else:
            table.append(argument.data_ptr() if isinstance(argument, Tensor) else as_int64(argument))
    pool.start(body, table, torch.get_num_threads())


def require_within(indices: Tensor, lowest: int, highest: int, what: str) -> None:
    """Raise `IndexError` for an index outside `lowest` to `highest`: a kernel would access memory that is not its own.

    `what` names the indices in the message.
    """
    if has_no_values(indices) or not indices.numel():
        return
    for index in map(int, indices.aminmax()):
        if not lowest <= index <= highest:
            raise IndexError(f"{what} is {index}, but must be from {lowest} to {highest}")


def has_no_values(argument: object) -> bool:
    """Whether this is a `FakeTensor`: a tensor with a shape and a type, but no memory."""
    return isinstance(argument, FakeTensor)


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the backward pass of a fused kernel, whose own gradient autograd cannot see: refuse `create_graph`.

    torch's `once_differentiable` does the same, but costs a small model a fiftieth of its step.
    """

    @wraps(backward)
    def checked(*arguments: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError('fused kernels have no second derivative: compute under `ops.backend("plain")`')
        return backward(*arguments)

    return checked
