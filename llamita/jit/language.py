"""What kernels may call besides plain Python: helpers and intrinsics.

These objects only describe a call; `compiler.py` translates them for numba. So a process whose kernels are all cached
needs no compiler: importing numba and LLVM takes half a second and 100 MiB.
"""

import os
from collections.abc import Callable
from typing import Any

FASTMATH = frozenset({"nsz", "contract", "reassoc"})
"""LLVM fast-math flags: sums may be reordered, so that they vectorize. Infinities and NaN are respected, since a
diverging run is detected by them."""

CHECKED = os.environ.get("LLAMITA_CHECKED_KERNELS") == "1"
"""Whether kernels bounds-check every access to a span (`spans.py`). For tests; set it before llamita is imported."""


class Helper:
    """A function that is compiled into the kernels that call it. Called from Python, it runs as Python."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.__doc__ = function.__doc__

    def __call__(self, *arguments: Any) -> Any:
        """Call the Python function."""
        return self.function(*arguments)


class Intrinsic:
    """LLVM instructions that kernels call as a function: `factory` of `intrinsics.py`, called with `args`."""

    def __init__(self, factory: str, *args: str | int):
        self.factory, self.args = factory, args


def helper(function: Callable[..., Any]) -> Any:
    """Decorator: compile this function into the kernels that call it."""
    return Helper(function)


def intrinsic(factory: str, *args: str | int) -> Any:
    """An `Intrinsic`, typed so that kernels may call it with anything."""
    return Intrinsic(factory, *args)
