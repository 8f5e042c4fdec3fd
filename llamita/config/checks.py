"""Range checks of settings: a value out of range is one line that names the field."""

import codecs
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
    """Raise `UserError` unless each of these fields is a fraction: at least 0, below 1."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise UserError(f"{name} is {getattr(config, name)}, but must be at least 0 and below 1")


def require_utf8(config: Any, *names: str) -> None:
    """Raise `UserError` for a name, or a list of names, that is not UTF-8: config.toml could not hold it."""
    for name in names:
        value = getattr(config, name)
        for text in [value] if isinstance(value, str) else value:
            try:
                text.encode()
            except UnicodeEncodeError:
                shown = text.encode("utf-8", "backslashreplace").decode()
                raise UserError(f"{name} is {shown}, which is not UTF-8: rename it, or name its folder") from None


def require_encoding(config: Any, *names: str) -> None:
    """Raise `UserError` for a name that is not that of a text encoding."""
    for name in names:
        value = getattr(config, name)
        try:
            "a".encode(value)
            codecs.getincrementaldecoder(value)
        except (LookupError, UnicodeError, ValueError):
            known = "utf-8, utf-16, latin-1 or cp1252"
            raise UserError(f"{name} is {value!r}, which is not a known encoding: try {known}") from None
