"""The words that kernels are written in, besides Python's: helpers and intrinsics.

These objects only describe. `compiler.py` gives them their meaning, so that a process whose kernels are in the cache
needs no compiler: numba and LLVM take half a second to import, and 100 MiB.
"""

import os
from collections.abc import Callable
from typing import Any

REWRITES = frozenset({"nsz", "contract", "reassoc"})
"""What LLVM may do to floating-point operations: reorder sums, so that they vectorize. It must respect infinities and
NaN, by which a diverging run is recognised."""

CHECKED = os.environ.get("LLAMITA_CHECKED_KERNELS") == "1"
"""Whether kernels check every access to a span (`spans.py`), for tests; set before llamita is imported."""


class Helper:
    """A function that is compiled into the kernels that call it. Called from Python, it is Python."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.__doc__ = function.__doc__

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        return self.function(*arguments)


class Intrinsic:
    """LLVM instructions that kernels call as a function: what `factory` in `intrinsics.py` makes of `given`."""

    def __init__(self, factory: str, *given: str | int):
        self.factory, self.given = factory, given


def helper(function: Callable[..., Any]) -> Any:
    """The decorator of helpers."""
    return Helper(function)


def intrinsic(factory: str, *given: str | int) -> Any:
    """An `Intrinsic`, typed so that kernels may call it with anything."""
    return Intrinsic(factory, *given)
