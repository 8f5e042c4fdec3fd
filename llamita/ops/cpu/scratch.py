"""Scratch buffers: memory that is allocated once and reused by every layer, for what lives only within a kernel.

Allocating it anew each time costs more than it seems: what is freed between tensors that stay leaves holes in the heap.
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


class _Buffers(threading.local):
    """The buffers of one thread by name: all of each, and views by their shape, which take time to make."""

    def __init__(self) -> None:
        self.views: dict[str, dict[tuple[int, ...], Tensor]] = {}


_real, _fake = _Buffers(), _Buffers()
"""The second is for FakeTensors: the memory estimate counts what they would keep."""


def scratch(name: str, *shape: int, like: Tensor, dtype: torch.dtype = BF16) -> Tensor:
    """An uninitialized tensor of this shape, in memory that the next caller with this name will overwrite.

    A name goes with one `dtype`. Where `like` is a FakeTensor, so is the result.
    """
    buffers, size = (_fake if has_no_values(like) else _real).views, math.prod(shape)
    if name not in buffers or buffers[name][WHOLE].numel() < size:
        buffers.pop(name, None)  # before another is allocated: not both at once
        with torch.inference_mode(False):  # not an inference tensor, which no other mode may write to
            buffers[name] = {WHOLE: torch.empty(size, dtype=dtype)}
    views = buffers[name]
    if shape not in views:
        if len(views) == MOST_VIEWS:
            buffers[name] = views = {WHOLE: views[WHOLE]}
        with torch.inference_mode(False):
            views[shape] = views[WHOLE][:size].view(shape)
    return views[shape]


def clear() -> None:
    """Free the buffers of this thread."""
    _real.views.clear()


def kept_bytes() -> int:
    """Bytes in the buffers of this thread."""
    return sum(views[WHOLE].untyped_storage().nbytes() for views in _real.views.values())


@contextmanager
def fake_buffers() -> Iterator[None]:
    """For FakeTensors, within the block: it begins with no buffers, and leaves none."""
    _fake.views = {}
    try:
        yield
    finally:
        _fake.views = {}
