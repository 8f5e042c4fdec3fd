"""Memory that is taken once and used again and again, for what comes and goes with every layer and step.

To allocate it anew each time costs more than it seems: the system has to hand over pages full of zeros, and what is
freed between tensors that stay leaves holes, which took a tenth of a run's memory.
"""

import math
import threading

import torch
from torch import Tensor

from llamita.kernels.workers import has_no_values

BF16 = torch.bfloat16


class _Workspace(threading.local):
    """What one thread has: buffers by name, and memory that waits to be lent again."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}
        self.waiting: list[torch.UntypedStorage] = []


_own = _Workspace()


def scratch(name: str, *shape: int, like: Tensor, dtype: torch.dtype = BF16) -> Tensor:
    """A tensor of this shape without values, in memory that the next caller with this name will overwrite.

    A name goes with one `dtype`. Where `like` tells only its shape, so does this, and nothing is kept.
    """
    size = math.prod(shape)
    if has_no_values(like):
        return torch.empty(shape, dtype=dtype)
    found = _own.buffers.get(name)
    if found is None or len(found) < size:
        _own.buffers.pop(name, None)  # before another is made: not both at once
        found = _own.buffers[name] = torch.empty(size, dtype=dtype)
    return found[:size].view(shape)


def lend(*shape: int, like: Tensor) -> Tensor:
    """A bf16 tensor of this shape without values, for what stays until the backward pass, which may `give_back` it."""
    if has_no_values(like):
        return torch.empty(shape, dtype=BF16)
    size = math.prod(shape) * BF16.itemsize
    storage = _take(size, 2 * size) or _forget_one_of(size) or torch.UntypedStorage(size)
    return torch.empty(0, dtype=BF16).set_(storage, 0, shape)  # pyright: ignore[reportCallIssue]  (documented)


def give_back(*tensors: Tensor) -> None:
    """Let the memory of tensors that were lent be lent again: nobody may read or write them any more."""
    _own.waiting += [tensor.untyped_storage() for tensor in tensors if not has_no_values(tensor)]


def clear() -> None:
    """Free what this thread keeps."""
    _own.buffers.clear()
    _own.waiting.clear()


def kept_bytes() -> int:
    """How much this thread keeps."""
    buffers = sum(buffer.untyped_storage().nbytes() for buffer in _own.buffers.values())
    return buffers + sum(storage.nbytes() for storage in _own.waiting)


def _take(smallest: int, largest: int) -> torch.UntypedStorage | None:
    """The least of what waits and has so many bytes, which then waits no longer."""
    fitting = [storage for storage in _own.waiting if smallest <= storage.nbytes() <= largest]
    if not fitting:
        return None
    found = min(fitting, key=torch.UntypedStorage.nbytes)
    _own.waiting = [storage for storage in _own.waiting if storage is not found]
    return found


def _forget_one_of(size: int) -> None:
    """Free one that is a little too small, since a larger one comes: so there are never more than were lent."""
    _take(size // 2, size)
