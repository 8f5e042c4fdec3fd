"""Tables in Markdown."""

import statistics
from collections.abc import Iterable, Iterator, Sequence


def header(columns: Sequence[str]) -> str:
    """The two lines that begin a table."""
    return f"{line(columns)}\n{'|---' * len(columns)}|"


def line(cells: Iterable[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def paragraph(lines: Iterable[str]) -> Iterator[str]:
    """The lines, if there are any, after an empty one."""
    for number, text in enumerate(lines):
        yield text if number else f"\n{text}"


def spread(values: Sequence[float]) -> str:
    """`median (min-max)` of ascending values."""
    return f"{statistics.median(values):.2f} ({values[0]:.2f}-{values[-1]:.2f})"
