"""The curves of runs against steps, tokens, FLOPs and seconds, each drawn in advance: the page shows one at a time."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llamita.experiments.report.chart import Chart, Line, legend
from llamita.experiments.report.gather import Entry, Material
from llamita.experiments.report.markup import Markup, element, join

AXES = {"steps": "step", "tokens": "tokens", "flops": "FLOPs", "seconds": "seconds of training"}
"""Name of a choice of the x axis -> its title."""
LEVELS = {"loss": "loss, nats per token", "above": "above the loss floor, nats per token"}
"""Name of a choice of the y axis of losses -> its title."""
MOST_POINTS = 4000
"""Of all training curves of a chart together: more would only make the file large."""
FEWEST_POINTS, MOST_POINTS_OF_LINE = 30, 300
LOGARITHMIC_X_FROM = 8.0
"""Longest finished run over the shortest one: from this ratio on, the x axis is logarithmic."""


@dataclass(frozen=True)
class Curve:
    """One quantity of one run over its steps: steps and values, both (points,) float64."""

    entry: Entry
    steps: np.ndarray
    values: np.ndarray

    def x(self, axis: str) -> np.ndarray:
        """(points,) float64: where the points are on this axis."""
        result = self.entry.result
        if axis == "steps":
            return self.steps
        if axis == "seconds":
            steps, seconds = result.clock()
            return np.interp(self.steps, np.append(0, steps), np.append(0.0, seconds))
        rows = result.metrics
        tokens = np.interp(self.steps, [row["step"] for row in rows], [row["tokens"] for row in rows])
        return tokens * result.flops_per_token if axis == "flops" else tokens


def curves_section(material: Material) -> Markup:
    """All charts, with the choice of their axes and one legend."""
    entries = material.started
    lowest = [entry.result.loss_floor for entry in entries]
    colours = {group: index for index, group in enumerate(material.groups)}
    shown = [group for group, members in material.groups.items() if any(entry.has_started for entry in members)]
    validation = [_curve(entry, "val_loss") for entry in entries]
    training = [_curve(entry, "train_loss") for entry in entries]
    figures = [
        _figure("Validation loss", validation, colours, lowest, marks=True),
        _figure("Training loss", _thinned(training), colours, lowest),
        _figure("Gradient norm", _thinned([_curve(e, "grad_norm") for e in entries]), colours, None, "norm"),
        _figure("Learning rate", _thinned([_curve(e, "lr") for e in entries]), colours, None, "rate", is_log_y=False),
    ]
    switches = join(_switch("x axis", "x", AXES), _switch("losses", "y", LEVELS) if _has_all(lowest) else None)
    names = legend([(group, colours[group]) for group in shown])
    return element(
        "section",
        element("h2", "Curves"),
        element("div", switches, class_="switches"),
        names,
        element("div", *figures, class_="figures"),
        id="curves",
    )


def _switch(title: str, name: str, choices: dict[str, str]) -> Markup:
    """Radio buttons; the style sheet shows the drawings of the one that is checked."""
    options = []
    for index, (value, text) in enumerate(choices.items()):
        button = element("input", type="radio", name=name, id=f"{name}-{value}", value=value, checked=index == 0)
        options.append(element("label", button, text.partition(",")[0]))
    return element("fieldset", element("legend", title), *options)


def _figure(
    title: str,
    curves: Sequence[Curve],
    colours: dict[str, int],
    lowest: Sequence[float | None] | None,
    y_title: str = LEVELS["loss"],
    *,
    marks: bool = False,
    is_log_y: bool | None = None,
) -> Markup | None:
    """One chart, drawn for each choice of the axes; None if no run has measured it."""
    curves = [curve for curve in curves if len(curve.steps)]
    if not curves:
        return element("p", f"{title}: no run has measured it yet.", class_="note") if lowest is not None else None
    views = []
    ended = [curve for curve in curves if curve.entry.status == "finished"]
    for axis, x_title in AXES.items():
        is_log_x = _spread([curve.x(axis)[-1] for curve in ended]) > LOGARITHMIC_X_FROM
        frame = Chart(title, x_title, y_title, is_log_x=is_log_x, is_log_y=is_log_y)
        for level, chart in _levels(frame, curves, axis, colours, lowest, marks):
            views.append(element("div", chart.svg(), class_="view", data_x=axis, data_y=level))
    return element("figure", element("figcaption", title), *views)


def _levels(
    frame: Chart,
    curves: Sequence[Curve],
    axis: str,
    colours: dict[str, int],
    lowest: Sequence[float | None] | None,
    marks: bool,
) -> Iterator[tuple[str | None, Chart]]:
    """(choice of the y axis, `frame` with its lines); a chart without that choice has None."""
    known = [floor for floor in lowest or () if floor is not None]
    floor = (min(known), max(known)) if known else None
    has_levels = lowest is not None and _has_all(lowest)
    lines = _lines(curves, axis, colours, lambda curve: 0.0, marks)
    yield "loss" if has_levels else None, replace(frame, lines=lines, floor=floor)
    if has_levels:
        above = _lines(curves, axis, colours, lambda curve: curve.entry.result.loss_floor or 0.0, marks)
        yield "above", replace(frame, y_title=LEVELS["above"], lines=above, is_log_y=True)


def _lines(
    curves: Sequence[Curve], axis: str, colours: dict[str, int], floor: Callable[[Curve], float], marks: bool
) -> list[Line]:
    """A line per run; in a group of several runs they are faint, and their mean is bold."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.entry.group, []).append(curve)
    lines = []
    for group, members in groups.items():
        points = [(curve.x(axis), curve.values - floor(curve)) for curve in members]
        mean = _mean(group, members, points, colours[group], marks)
        lines += [
            Line(curve.entry.name, x, y, colours[group], mean is not None, marks and mean is None)
            for curve, (x, y) in zip(members, points, strict=True)
        ]
        lines += [mean] if mean else []
    return sorted(lines, key=lambda line: not line.is_faint)


def _mean(
    group: str, members: Sequence[Curve], points: Sequence[tuple[np.ndarray, np.ndarray]], colour: int, marks: bool
) -> Line | None:
    """The mean of a group's runs, up to the step that all have reached; None for one run, or if steps differ."""
    length = min(len(x) for x, _ in points)
    same = all(np.array_equal(curve.steps[:length], members[0].steps[:length]) for curve in members)
    if len(members) == 1 or not same:
        return None
    x, y = (np.mean([point[axis][:length] for point in points], axis=0) for axis in (0, 1))
    return Line(f"{group}, mean of {len(members)}", x, y, colour, marks=marks)


def _curve(entry: Entry, name: str) -> Curve:
    """A column of metrics.jsonl, without the steps that did not measure it or where it is not finite."""
    rows = [(row["step"], row[name]) for row in entry.result.metrics if row.get(name) is not None]
    steps, values = np.array(rows, dtype=np.float64).reshape(-1, 2).T
    return Curve(entry, steps[np.isfinite(values)], values[np.isfinite(values)])


def _thinned(curves: Sequence[Curve]) -> list[Curve]:
    """Curves with fewer points: means over as many consecutive ones as the number of curves makes necessary."""
    most = min(MOST_POINTS_OF_LINE, max(FEWEST_POINTS, MOST_POINTS // max(len(curves), 1)))
    return [Curve(c.entry, *(_means(v, math.ceil(len(c.steps) / most)) for v in (c.steps, c.values))) for c in curves]


def _means(values: np.ndarray, size: int) -> np.ndarray:
    """(n,) -> (ceil(n / size),): the mean of each `size` consecutive values."""
    return np.array([values[i : i + size].mean() for i in range(0, len(values), max(size, 1))])


def _has_all(lowest: Sequence[float | None]) -> bool:
    return all(floor is not None for floor in lowest)


def _spread(values: Sequence[float]) -> float:
    positive = [value for value in values if value > 0]
    return max(positive) / min(positive) if positive else 1.0
