"""The words that loops are written in, besides Python's: helpers and intrinsics.

Here they only say what they are. What they become is the compiler's business, so that a process whose loops were
compiled before needs no compiler: numba and LLVM take half a second to import, and some 100 MiB.
"""

from collections.abc import Callable
from typing import Any

REWRITES = frozenset({"nsz", "contract", "reassoc"})
"""What the compiler may do to floating-point numbers: reorder sums, so that they become vectors; not forget that there
are infinities and NaN, which a run that diverges is recognised by."""


class Helper:
    """A function that becomes a part of the loops that call it. Called from Python, it is Python."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.__doc__ = function.__doc__

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        return self.function(*arguments)


class Intrinsic:
    """A function that is no Python, but instructions: what `factory` in `intrinsics.py` makes of `given`."""

    def __init__(self, factory: str, *given: str | int):
        self.factory, self.given = factory, given


def helper(function: Callable[..., Any]) -> Any:
    """The decorator of helpers."""
    return Helper(function)


def intrinsic(factory: str, *given: str | int) -> Any:
    """An `Intrinsic`, whose type is whatever a loop takes it for."""
    return Intrinsic(factory, *given)
