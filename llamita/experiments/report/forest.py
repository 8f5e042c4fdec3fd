"""A forest plot: differences between groups of runs, each a point with its interval, around a line of no difference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llamita.experiments.report.markup import Markup, element, join
from llamita.experiments.report.scale import Scale, short

WIDTH, ROW, TOP, BOTTOM = 480, 36, 14, 48
LEFT, RIGHT = 12, 12
NAME, HALF, LINE = 15, 5, 17
MOST_CHARACTERS = 58
"""That fit on the line above a row: with more, the numbers get a line of their own."""
LONGEST_NAME = 66


@dataclass(frozen=True)
class Difference:
    """A row: the mean of paired differences with its interval; NaN where there is none. `note` explains that."""

    name: str
    mean: float
    low: float
    high: float
    pairs: int
    note: str = ""

    @property
    def text(self) -> str:
        """The numbers, e.g. "+0.0412 [+0.0301, +0.0523], 5 pairs"."""
        if not math.isfinite(self.mean):
            return self.note or "no pair of finished runs"
        interval = f" [{self.low:+.4f}, {self.high:+.4f}]" if math.isfinite(self.low + self.high) else ""
        pairs = f"{self.pairs} pair{'s' if self.pairs != 1 else ''}"
        return f"{self.mean:+.4f}{interval}, {pairs}{f'; {self.note}' if self.note else ''}"


def forest_plot(title: str, rows: Sequence[Difference], x_title: str) -> Markup:
    """The drawing, as a figure. Names and numbers are above each row, so that it fits a phone."""
    shown = [v for row in rows for v in (row.mean, row.low, row.high) if math.isfinite(v)]
    scale = Scale.over([0.0, *shown], LEFT, WIDTH - RIGHT)
    is_tall = any(len(row.name) + len(row.text) > MOST_CHARACTERS for row in rows)
    each = ROW + LINE * is_tall
    height = TOP + each * len(rows) + BOTTOM
    bottom = height - BOTTOM
    parts = []
    for tick in scale.ticks():
        at = round(float(scale(tick)), 1)
        parts.append(element("line", x1=at, x2=at, y1=TOP, y2=bottom, class_="zero" if tick == 0 else "grid"))
        parts.append(element("text", short(tick), x=at, y=bottom + 16, class_="middle"))
    parts += [_row(row, scale, TOP + each * index, is_tall) for index, row in enumerate(rows)]
    parts.append(element("text", x_title, x=WIDTH / 2, y=height - 8, class_="middle axis"))
    label = f"{title}: {'; '.join(f'{row.name} {row.text}' for row in rows)}"
    drawn = element("svg", *parts, viewBox=f"0 0 {WIDTH} {height}", class_="forest", role="img", aria_label=label)
    return element("figure", element("figcaption", title), drawn)


def _row(row: Difference, scale: Scale, top: float, is_tall: bool) -> Markup:
    """A name, the numbers (below it if `is_tall`), and below them the point with its interval."""
    below = LINE * is_tall
    at = top + ROW + below - 9
    shown = row.name if len(row.name) <= LONGEST_NAME else f"{row.name[:LONGEST_NAME]}…"
    name = element("text", shown, element("title", row.name), x=LEFT, y=top + NAME, class_="name")
    place = {"x": LEFT} if is_tall else {"x": WIDTH - RIGHT, "class_": "end"}
    text = element("text", row.text, y=top + NAME + below, **place)
    if not math.isfinite(row.mean):
        return join(name, text)
    parts = [name, text]
    if math.isfinite(row.low + row.high):
        low, high = round(float(scale(row.low)), 1), round(float(scale(row.high)), 1)
        parts.append(element("line", x1=low, x2=high, y1=at, y2=at, class_="interval"))
        parts += [element("line", x1=x, x2=x, y1=at - HALF, y2=at + HALF, class_="interval") for x in (low, high)]
    parts.append(element("circle", cx=round(float(scale(row.mean)), 1), cy=at, r=4.5, class_="mean"))
    return join(*parts)
