"""Checks of numbers that a person may set: what is out of range is one line that names the field."""

import math
from typing import Any

from llamita.errors import UserError


def require_positive(config: Any, *names: str) -> None:
    """Raise `UserError` unless each of these fields is above 0 and finite."""
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise UserError(f"{name} is {getattr(config, name)}, but must be above 0 and finite")


def require_not_negative(config: Any, *names: str) -> None:
    """Raise `UserError` unless each of these fields is at least 0 and finite."""
    for name in names:
        if not 0 <= getattr(config, name) < math.inf:
            raise UserError(f"{name} is {getattr(config, name)}, but must be finite and not negative")


def require_share(config: Any, *names: str) -> None:
    """Raise `UserError` unless each of these fields is a share of something: at least 0, below 1."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise UserError(f"{name} is {getattr(config, name)}, but must be at least 0 and below 1")
