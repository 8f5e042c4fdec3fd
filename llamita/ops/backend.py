"""Which implementation an operation chooses: a fused kernel where one fits its inputs, or the reference everywhere."""

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
"""Types whose memory kernels know how to read: not a DTensor, a quantized tensor or another subclass."""


class Backend:
    """The one choice of a process. `llamita.ops.backend` is the only instance.

        native    a fused kernel where one fits the inputs (device, dtype, grad mode), else the reference
        plain     the reference, everywhere, the optimizer included

    >>> ops.backend.use("plain")            # from here on
    >>> with ops.backend("plain"): ...      # for a block; then as before
    """

    def __init__(self) -> None:
        self.name = NATIVE

    def use(self, name: str) -> None:
        """Choose "native" or "plain" for the whole process. Raises `UserError` for another name."""
        if name not in (NATIVE, PLAIN):
            raise UserError(f"op backend {name!r} is not known: choose {NATIVE} or {PLAIN}")
        self.name = name

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Choose `name` for a block."""
        before = self.name
        self.use(name)
        try:
            yield
        finally:
            self.name = before

    @property
    def is_native(self) -> bool:
        """Whether fused implementations may compute: never while torch.compile or a functorch transform traces."""
        return (
            self.name == NATIVE
            and not torch.compiler.is_compiling()
            and not torch._C._are_functorch_transforms_active()
        )

    def fuses(self, *tensors: Tensor) -> bool:
        """Whether a fused CPU kernel may compute on these tensors."""
        for tensor in tensors:  # a loop, not `all(...)`: small models are called thousands of times a second
            if type(tensor) not in DENSE or not tensor.is_cpu:
                return False
        return self.is_native and jit.available()


backend = Backend()


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype of matrix products under the autocast that is on for the device of x; None where none is."""
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)
