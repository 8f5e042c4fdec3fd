"""Memory that is taken once and used again and again, for what comes and goes within a layer.

To allocate it anew each time costs more than it seems: what is freed between tensors that stay leaves holes.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from llamita.ops.cpu.launch import has_no_values

BF16 = torch.bfloat16
WHOLE: tuple[int, ...] = ()
MOST_VIEWS = 64


class _Workspace(threading.local):
    """What one thread has: buffers by name, all of each and views by their shape, which take time to make."""

    def __init__(self) -> None:
        self.buffers: dict[str, dict[tuple[int, ...], Tensor]] = {}


_real, _imagined = _Workspace(), _Workspace()
"""The second is for tensors without values: what they would keep is counted, too."""


def scratch(name: str, *shape: int, like: Tensor, dtype: torch.dtype = BF16) -> Tensor:
    """A tensor of this shape without values, in memory that the next caller with this name will overwrite.

    A name goes with one `dtype`. Where `like` tells only its shape, so does this.
    """
    buffers, size = _workspace_of(like).buffers, math.prod(shape)
    if name not in buffers or buffers[name][WHOLE].numel() < size:
        buffers.pop(name, None)  # before another is made: not both at once
        with torch.inference_mode(False):  # even there not one that nobody else could write into
            buffers[name] = {WHOLE: torch.empty(size, dtype=dtype)}
    views = buffers[name]
    if shape not in views:
        if len(views) == MOST_VIEWS:
            buffers[name] = views = {WHOLE: views[WHOLE]}
        with torch.inference_mode(False):
            views[shape] = views[WHOLE][:size].view(shape)
    return views[shape]


def clear() -> None:
    """Free what this thread keeps."""
    _real.buffers.clear()


def kept_bytes() -> int:
    """How much this thread keeps."""
    return sum(views[WHOLE].untyped_storage().nbytes() for views in _real.buffers.values())


@contextmanager
def imagining() -> Iterator[None]:
    """For tensors without values, within the block: at first nothing is kept, and nothing of it stays."""
    _imagined.buffers = {}
    try:
        yield
    finally:
        _imagined.buffers = {}


def _workspace_of(tensor: Tensor) -> _Workspace:
    return _imagined if has_no_values(tensor) else _real
