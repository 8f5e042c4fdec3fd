"""Which characters are letters, numbers and whitespace: one pinned table, the same on every machine and Python.

What counts as a letter depends on the version of Unicode that Python was built with, and likewise for `regex`, Rust
and Oniguruma. Token ids must not. `character_classes.txt` is tiktoken's, run-length encoded;
`scripts/derive_character_classes.py` derives it.
"""

from functools import cache
from pathlib import Path

Ranges = list[tuple[int, int]]
"""Code points as (first, last), both included, ascending."""

TABLE = Path(__file__).with_name("character_classes.txt")


@cache
def character_classes() -> dict[str, Ranges]:
    """Class name (letter, number, whitespace, any_case_d, any_case_e, ...) -> its code points."""
    classes: dict[str, Ranges] = {}
    current: Ranges = []
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        content = line.partition("#")[0].strip()
        if content.startswith("["):
            current = classes.setdefault(content.strip("[]"), [])
        else:
            current += [_parse_range(cell) for cell in content.split()]
    return classes


def characters(name: str) -> str:
    """All members of a class as one string; meant for the small ones, such as whitespace."""
    return "".join(chr(point) for first, last in character_classes()[name] for point in range(first, last + 1))


def _parse_range(cell: str) -> tuple[int, int]:
    """ "41-5A" -> (0x41, 0x5A); "AA" -> (0xAA, 0xAA)."""
    first, _, last = cell.partition("-")
    return int(first, 16), int(last or first, 16)
