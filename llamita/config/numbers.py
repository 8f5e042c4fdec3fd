"""Whole numbers as people write them: 1000, 1_000, 1e3, 1k, 2.5M."""

import re
from fractions import Fraction

NUMBER = re.compile(r"[+-]?(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)(?:e([+-]?\d{1,9}))?(?P<suffix>[kmb]?)", re.IGNORECASE)
SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
LONGEST = 40  # characters: far more than any setting needs
LARGEST_EXPONENT = 30
EXACT = 2**53
"""Floats below it represent every whole number."""


def whole_number(text: str) -> int | None:
    """`text` as an integer: digits with `_`, an exponent, and one of the suffixes k, M, B.

    None for text that is no decimal number, such as `auto` or `0x10`. Raises `ValueError` for a fraction, such as 2.5
    or 1.25e1, and for exponents out of any range.
    """
    match = NUMBER.fullmatch(text.strip())
    if match is None or len(text) > LONGEST:
        return None
    if abs(int(match[1] or 0)) > LARGEST_EXPONENT:
        raise ValueError(text)
    digits = match[0].removesuffix(match["suffix"]).replace("_", "")
    value = Fraction(digits) * SUFFIXES[match["suffix"].lower()]
    if value.denominator != 1:
        raise ValueError(text)
    return int(value)


def is_whole(value: float) -> bool:
    """Whether a float, as TOML reads 1e4, represents a whole number exactly."""
    return value.is_integer() and abs(value) < EXACT
