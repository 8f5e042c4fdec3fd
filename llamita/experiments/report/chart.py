"""Line charts as SVG: axes with ticks, lines, a band for the loss floor. Colours are in page.css."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llamita.experiments.report.markup import Markup, element, join
from llamita.experiments.report.scale import Scale, short

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 10, 12, 46
COLOURS = 8
LOGARITHMIC_FROM = 4.0
"""Maximum over minimum: from this ratio on, a logarithmic axis."""
LABEL = 12


@dataclass(frozen=True)
class Line:
    """A line of a chart: x and y, both (points,) float64.

    Attributes:
        colour: a number; those beyond the number of colours repeat them, dashed.
        is_faint: whether it is one of several that a bolder one summarizes.
        marks: whether each point gets a dot.
        is_joined: whether the points are joined by a line.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    colour: int = 0
    is_faint: bool = False
    marks: bool = False
    is_joined: bool = True


@dataclass(frozen=True)
class Chart:
    """A chart: its lines, the titles of its axes, and perhaps a loss floor from `floor[0]` to `floor[1]`."""

    title: str
    x_title: str
    y_title: str
    lines: Sequence[Line] = field(default_factory=tuple)
    floor: tuple[float, float] | None = None
    is_log_x: bool = False
    is_log_y: bool | None = None

    def svg(self) -> Markup:
        """The drawing. Points that a logarithmic axis cannot show are left out."""
        x, y = self._scales()
        names = ", ".join(line.name for line in self.lines if not line.is_faint)
        label = f"{self.title}: {self.y_title} against {self.x_title} of {names}. Arrow keys move from point to point."
        parts = [
            _grid(x, y),
            _titles(self.x_title, self.y_title),
            self._floor(y),
            *(_line(line, x, y) for line in self.lines),
        ]
        box = f"0 0 {WIDTH} {HEIGHT}"
        return element(
            "svg",
            *parts,
            viewBox=box,
            class_="chart",
            role="img",
            aria_label=label,
            tabindex=0,
            data_unit=self.x_title,
        )

    def _scales(self) -> tuple[Scale, Scale]:
        xs = np.concatenate([line.x for line in self.lines])
        ys = np.concatenate([line.y for line in self.lines])
        every = [*ys[np.isfinite(ys)].tolist(), *(self.floor or ())]
        is_log = self.is_log_y if self.is_log_y is not None else _spans_much(every)
        x_scale = Scale.over(xs.tolist(), LEFT, WIDTH - RIGHT, is_log=self.is_log_x, margin=0.02)
        return x_scale, Scale.over(every, HEIGHT - BOTTOM, TOP, is_log=is_log)

    def _floor(self, y: Scale) -> Markup | None:
        if self.floor is None:
            return None
        low, high = (float(y(value)) for value in self.floor)
        top, height = min(low, high), max(abs(high - low), 1.0)
        band = element(
            "rect", x=LEFT, y=round(top, 1), width=WIDTH - LEFT - RIGHT, height=round(height, 1), class_="floor"
        )
        return join(band, element("text", "loss floor", x=WIDTH - RIGHT - 4, y=round(top - 4, 1), class_="floor end"))


def _spans_much(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) / min(values) > LOGARITHMIC_FROM


def _grid(x: Scale, y: Scale) -> Markup:
    """Ticks, their labels, and lines across the plot."""
    parts = []
    for tick in y.ticks():
        at = round(float(y(tick)), 1)
        parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="grid"))
        parts.append(element("text", short(tick), x=LEFT - 6, y=at + 4, class_="end"))
    for tick in x.ticks():
        at = round(float(x(tick)), 1)
        parts.append(element("line", x1=at, x2=at, y1=TOP, y2=HEIGHT - BOTTOM, class_="grid"))
        parts.append(element("text", short(tick), x=at, y=HEIGHT - BOTTOM + 16, class_="middle"))
    return join(*parts)


def _titles(x_title: str, y_title: str) -> Markup:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return join(
        element("text", x_title, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 8, class_="middle axis"),
        element(
            "text", y_title, x=0, y=0, class_="middle axis", transform=f"translate({LABEL} {middle:g}) rotate(-90)"
        ),
    )


def _line(line: Line, x: Scale, y: Scale) -> Markup:
    """A polyline, with the values of its points for the script that shows them."""
    at_x, at_y = x(line.x), y(line.y)
    seen = np.isfinite(at_x) & np.isfinite(at_y)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(at_x[seen], at_y[seen], strict=True))
    dots = [
        element("circle", cx=round(float(a), 1), cy=round(float(b), 1), r=3, class_=f"c{line.colour % COLOURS}")
        for a, b in zip(at_x[seen], at_y[seen], strict=True)
        if line.marks or np.count_nonzero(seen) == 1  # a line of one point is invisible
    ]
    kinds = {"dashed": line.colour >= COLOURS, "faint": line.is_faint, "unjoined": not line.is_joined}
    drawn = element(
        "polyline",
        points=points,
        class_=" ".join(["line", f"c{line.colour % COLOURS}", *(kind for kind, holds in kinds.items() if holds)]),
        data_name=line.name,
        data_x=_numbers(line.x[seen]),
        data_y=_numbers(line.y[seen]),
    )
    return join(drawn, *dots)


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.6g}" for value in values if math.isfinite(value))


def legend(names: Sequence[tuple[str, int]]) -> Markup:
    """The names of lines beside a sample of each; (name, colour)."""
    items = []
    for name, colour in names:
        dashed = " dashed" if colour >= COLOURS else ""
        stroke = element("line", x1=1, x2=23, y1=5, y2=5, class_=f"line c{colour % COLOURS}{dashed}")
        sample = element("svg", stroke, viewBox="0 0 24 10", class_="sample", aria_hidden="true")
        items.append(element("li", sample, name))
    return element("ul", *items, class_="legend")
