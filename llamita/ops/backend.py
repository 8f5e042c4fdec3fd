"""Which implementation operations dispatch to: a fused kernel that supports the inputs, or always the reference."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import Parameter

from llamita import jit
from llamita.errors import UserError

NATIVE, PLAIN = "native", "plain"
DENSE = frozenset({Tensor, Parameter, FakeTensor})
"""Types whose memory kernels can read: not a DTensor, a quantized tensor or another subclass."""


class Backend:
    """The op backend of the process. `llamita.ops.backend` is the only instance.

        native    a fused kernel where one supports the inputs (device, dtype, grad mode), else the reference
        plain     the reference, everywhere, including the optimizer

    >>> ops.backend.use("plain")            # for the rest of the process
    >>> with ops.backend("plain"): ...      # for a block
    """

    def __init__(self) -> None:
        self.name = NATIVE

    def use(self, name: str) -> None:
        """Select "native" or "plain" for the whole process. Raises `UserError` for any other name."""
        if name not in (NATIVE, PLAIN):
            raise UserError(f"unknown op backend {name!r}: choose {NATIVE} or {PLAIN}")
        self.name = name

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Select `name` for a block."""
        before = self.name
        self.use(name)
        try:
            yield
        finally:
            self.name = before

    @property
    def is_native(self) -> bool:
        """Whether fused implementations may run: never while torch.compile or a functorch transform traces."""
        return (
            self.name == NATIVE
            and not torch.compiler.is_compiling()
            and not torch._C._are_functorch_transforms_active()
        )

    def can_fuse(self, *tensors: Tensor) -> bool:
        """Whether a fused CPU kernel may run on these tensors."""
        for tensor in tensors:  # a loop, not `all(...)`: small models call this thousands of times per second
            if type(tensor) not in DENSE or not tensor.is_cpu:
                return False
        return self.is_native and jit.available()


backend = Backend()


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Autocast's dtype on the device of x; None if autocast is off there."""
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)
