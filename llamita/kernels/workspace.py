"""Memory that is taken once and used again and again, for what comes and goes with every layer and step.

To allocate it anew each time costs more than it seems: the system has to hand over pages full of zeros, and what is
freed between tensors that stay leaves holes, which took a tenth of a run's memory.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from llamita.kernels.loops.workers import has_no_values

BF16 = torch.bfloat16
WHOLE: tuple[int, ...] = ()
MOST_VIEWS = 64


class _Workspace(threading.local):
    """What one thread has: buffers by name, and memory that waits to be lent again."""

    def __init__(self) -> None:
        self.buffers: dict[str, dict[tuple[int, ...], Tensor]] = {}  # all of each, and views, which take time to make
        self.waiting: list[torch.UntypedStorage] = []
        self.lent = 0  # how many may come back: what another thread lent would only gather here

    def take(self, smallest: int, largest: int) -> torch.UntypedStorage | None:
        """The least of what waits and has so many bytes, which then waits no longer."""
        fitting = [storage for storage in self.waiting if smallest <= storage.nbytes() <= largest]
        if not fitting:
            return None
        found = min(fitting, key=torch.UntypedStorage.nbytes)
        self.waiting = [storage for storage in self.waiting if storage is not found]
        return found


_real, _imagined = _Workspace(), _Workspace()
"""The second is for tensors without values: what they would keep is counted, too."""


def scratch(name: str, *shape: int, like: Tensor, dtype: torch.dtype = BF16) -> Tensor:
    """A tensor of this shape without values, in memory that the next caller with this name will overwrite.

    A name goes with one `dtype`. Where `like` tells only its shape, so does this.
    """
    buffers, size = _workspace_of(like).buffers, math.prod(shape)
    if name not in buffers or buffers[name][WHOLE].numel() < size:
        buffers.pop(name, None)  # before another is made: not both at once
        buffers[name] = {WHOLE: _empty(size, dtype)}
    views = buffers[name]
    if shape not in views:
        if len(views) == MOST_VIEWS:
            buffers[name] = views = {WHOLE: views[WHOLE]}
        with torch.inference_mode(False):  # even there not a view that nobody else could write into
            views[shape] = views[WHOLE][:size].view(shape)
    return views[shape]


def lend(*shape: int, like: Tensor) -> Tensor:
    """A bf16 tensor of this shape without values, for what stays until the backward pass, which may `give_back` it."""
    own, size = _workspace_of(like), math.prod(shape) * BF16.itemsize
    storage = own.take(size, 2 * size)
    if storage is None:
        own.take(size // 2, size)  # goes, since a larger one comes: so there are never more than were lent
        storage = _empty(math.prod(shape), BF16).untyped_storage()
    own.lent += 1
    return torch.empty(0, dtype=BF16).set_(storage, 0, shape)  # pyright: ignore[reportCallIssue]  (documented)


def give_back(*tensors: Tensor) -> None:
    """Let the memory of tensors that were lent be lent again: nobody may read or write them any more."""
    for tensor in tensors:
        own = _workspace_of(tensor)
        if own.lent:
            own.lent -= 1
            own.waiting.append(tensor.untyped_storage())


def clear() -> None:
    """Free what this thread keeps."""
    _real.buffers.clear()
    _real.waiting.clear()


def kept_bytes() -> int:
    """How much this thread keeps."""
    buffers = sum(views[WHOLE].untyped_storage().nbytes() for views in _real.buffers.values())
    return buffers + sum(storage.nbytes() for storage in _real.waiting)


@contextmanager
def imagining() -> Iterator[None]:
    """For tensors without values, within the block: at first nothing is kept, and nothing of it stays."""
    _imagined.buffers, _imagined.waiting = {}, []
    try:
        yield
    finally:
        _imagined.buffers, _imagined.waiting = {}, []


def _empty(size: int, dtype: torch.dtype) -> Tensor:
    """Not one of inference mode, even there: nobody else could write into it."""
    with torch.inference_mode(False):
        return torch.empty(size, dtype=dtype)


def _workspace_of(tensor: Tensor) -> _Workspace:
    return _imagined if has_no_values(tensor) else _real
