"""The options of both implementations of learning merges."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Progress = Callable[[int, int], None]
"""Called with (merges so far, merges requested) now and then."""


@dataclass(frozen=True)
class MergeRules:
    """How many merges to learn at most, which of equally frequent pairs goes first, and which are too rare to go."""

    merges: int
    tie_break: Literal["bytes", "id"] = "bytes"
    min_frequency: int = 1
