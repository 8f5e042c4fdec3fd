"""Scratch buffers: memory that is allocated once and reused by every layer, for temporaries of a kernel.

Allocating it each time costs more than the allocation: blocks freed between tensors that stay fragment the heap.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from llamita.ops.cpu.launch import is_fake

BF16 = torch.bfloat16
WHOLE: tuple[int, ...] = ()
MAX_VIEWS = 64


class _Buffers(threading.local):
    """The buffers of one thread by name: each as a whole, and its views by shape, which take time to create."""

    def __init__(self) -> None:
        self.views: dict[str, dict[tuple[int, ...], Tensor]] = {}


_real, _fake = _Buffers(), _Buffers()
"""The second is for FakeTensors: the memory estimate counts what they would allocate."""


def scratch(name: str, *shape: int, like: Tensor, dtype: torch.dtype = BF16) -> Tensor:
    """An uninitialized tensor of this shape, in memory that the next caller with this name overwrites.

    A name always has the same `dtype`. If `like` is a FakeTensor, so is the result.
    """
    buffers, size = (_fake if is_fake(like) else _real).views, math.prod(shape)
    if name not in buffers or buffers[name][WHOLE].numel() < size:
        buffers.pop(name, None)  # free the old buffer before allocating the new one
        with torch.inference_mode(False):  # an inference tensor cannot be written to outside inference mode
            buffers[name] = {WHOLE: torch.empty(size, dtype=dtype)}
    views = buffers[name]
    if shape not in views:
        if len(views) == MAX_VIEWS:
            buffers[name] = views = {WHOLE: views[WHOLE]}
        with torch.inference_mode(False):
            views[shape] = views[WHOLE][:size].view(shape)
    return views[shape]


def clear() -> None:
    """Free the buffers of this thread."""
    _real.views.clear()


def allocated_bytes() -> int:
    """Bytes in the buffers of this thread."""
    return sum(views[WHOLE].untyped_storage().nbytes() for views in _real.views.values())


@contextmanager
def fake_buffers() -> Iterator[None]:
    """A block for FakeTensors that begins without buffers, and leaves none behind."""
    _fake.views = {}
    try:
        yield
    finally:
        _fake.views = {}
