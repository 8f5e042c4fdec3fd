"""Plots of a run: its metrics over steps (bottom axis) and tokens (top axis), and the loss by position.

Nothing here needs a display. Importing this module imports matplotlib, which takes half a second.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import offset_copy

from llamita.errors import UserError
from llamita.evaluate.positions import PositionLosses

BLUE, ORANGE, GREEN, GREY, FAINT = "#2b6cb0", "#dd6b20", "#2f855a", "#4a5568", "#a0aec0"
STYLE = {
    "figure.facecolor": "white",
    "savefig.dpi": 150,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same plot everywhere
    "font.size": 10,
    "text.color": "#2d3748",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": GREY,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,  # nor a power of ten: it would overlap `tokens` in the corner
    "axes.formatter.limits": (-9, 12),
    "grid.color": "#edf2f7",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": GREY,
    "ytick.labelcolor": GREY,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
}
MOST_POINTS = 600  # about the width of a plot in pixels
LOGARITHMIC_FROM = 4  # maximum over minimum: from this ratio on, a logarithmic axis
WINDOWS_OF_SMOOTHING = 40
ROUND = (1, 2, 2.5, 5, 10)  # ticks of linear axes are multiples of these times a power of ten
LONGEST_NAME = 30  # characters that fit beside the label of an axis
SUBDIVISIONS = ((1.2, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)), (3.2, (1.0, 2.0, 5.0)), (np.inf, (1.0,)))
"""(decades, multiples of powers of ten that get ticks on a logarithmic axis of fewer decades)."""


class Series(NamedTuple):
    """Values over x, both (points,); `low` and `high` are the range of merged points."""

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class PlotData:
    """The data of the plots: rows of metrics.jsonl, loss floor (nats/token), losses by position."""

    rows: Sequence[Mapping[str, Any]]
    floor: float | None = None
    positions: PositionLosses | None = None

    def points(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of a column, without missing and non-finite values."""
        pairs = [(row["step"], row[name]) for row in self.rows if row.get(name) is not None]
        steps, values = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        return steps[np.isfinite(values)], values[np.isfinite(values)]

    @property
    def tokens_per_step(self) -> float:
        """Average tokens per step; 0 before the first step."""
        last = self.rows[-1] if self.rows else {}
        return last.get("tokens", 0) / last["step"] if last.get("step") else 0.0


Drawing = Callable[[Axes, PlotData], bool]
"""Draws on the axes, and returns whether there was anything to draw."""


def write_plots(folder: str | Path, data: PlotData, title: str = "") -> list[Path]:
    """Write a PNG for each of `DRAWINGS` that has data, and overview.png with all of them -> their paths.

    `title`, such as the name of the run, is printed small in each. Raises `UserError` if the folder is not writable.
    """
    folder = Path(folder)
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figures = {name: _single(draw, data, title) for name, draw in DRAWINGS.items()}
        figures = {name: figure for name, figure in figures.items() if figure is not None}
        if len(figures) > 1:
            figures["overview"] = _overview([DRAWINGS[name] for name in figures], data, title)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, figure in figures.items():
                figure.savefig(folder / f"{name}.png")
        except OSError as error:
            raise UserError(f"{folder}: the plots cannot be written there ({error.strerror or error})") from None
    return [folder / f"{name}.png" for name in figures]


def _single(draw: Drawing, data: PlotData, title: str) -> Figure | None:
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    _name(figure, title)
    return figure if draw(figure.add_subplot(), data) else None


def _overview(draws: Sequence[Drawing], data: PlotData, title: str) -> Figure:
    columns = min(3, len(draws))
    rows = -(-len(draws) // columns)
    figure = Figure(figsize=(6.2 * columns, 4.1 * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr]
    _name(figure, title)
    for number, draw in enumerate(draws):
        draw(figure.add_subplot(rows, columns, number + 1), data)
    return figure


def _name(figure: Figure, title: str) -> None:
    """Print the name in the lower corner; of a long name only the end, which differs between runs."""
    shown = title if len(title) <= LONGEST_NAME else f"…{title[1 - LONGEST_NAME :]}"
    figure.text(0.99, 0.015, shown, ha="right", va="bottom", fontsize=9, color=FAINT)


# --- What is plotted -------------------------------------------------------------------------------------------------


def _loss(axes: Axes, data: PlotData) -> bool:
    trained, validated = data.points("train_loss"), data.points("val_loss")
    _noisy(axes, *trained, BLUE, "training")
    _clear(axes, *validated, ORANGE, "validation")
    if data.floor is not None:
        label = f"floor {data.floor:.3f}"
        axes.axhline(data.floor, color=GREEN, linewidth=1.4, linestyle=(0, (5, 3)), label=label)
    known = [*trained[1], *validated[1]]
    _finish(axes, data, "Loss", "nats per token", [*known, data.floor or known[0]] if known else [])
    return bool(known)


def _perplexity(axes: Axes, data: PlotData) -> bool:
    steps, values = data.points("perplexity")
    _clear(axes, steps, values, ORANGE, "validation")
    _finish(axes, data, "Perplexity", "exp(loss)", values)
    return len(values) > 0


def _learning_rate(axes: Axes, data: PlotData) -> bool:
    steps, values = data.points("lr")
    _clear(axes, steps, values, BLUE, "")
    _finish(axes, data, "Learning rate", "step size of AdamW", [])
    _from_zero(axes, values)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("e-0", "e-")))
    return len(values) > 0


def _throughput(axes: Axes, data: PlotData) -> bool:
    steps, values = data.points("tokens_per_second")
    _noisy(axes, steps, values, BLUE, "")
    _finish(axes, data, "Throughput", "tokens per second", [])
    _from_zero(axes, values)
    axes.yaxis.set_major_formatter(FuncFormatter(_in_short))
    return len(values) > 0


def _gradient(axes: Axes, data: PlotData) -> bool:
    steps, values = data.points("grad_norm")
    _noisy(axes, steps, values, BLUE, "")
    _finish(axes, data, "Gradient norm", "L2 norm before clipping", values)
    return len(values) > 0


def _positions(axes: Axes, data: PlotData) -> bool:
    if data.positions is None:
        return False
    means, groups = data.positions.means(), data.positions.by_doubling()
    common = data.positions.targets >= data.positions.targets.max() / 20  # only few documents are longer
    axes.plot(np.arange(len(means)) + 1, np.where(common, means, np.nan), color=BLUE, alpha=0.3, linewidth=1)
    centres = [(first * last) ** 0.5 for first, last, _ in groups]
    losses = [loss for _, _, loss in groups]
    axes.plot(centres, losses, color=BLUE, linewidth=2.2, marker="o", markersize=5)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else ""))
    axes.set_xlabel("tokens seen")
    _describe(axes, "Loss by position in the context", "nats per token", [])
    _from_zero(axes, np.append(means[common], losses))
    return bool(groups)


DRAWINGS: dict[str, Drawing] = {
    "loss": _loss,
    "perplexity": _perplexity,
    "learning_rate": _learning_rate,
    "gradient_norm": _gradient,
    "tokens_per_second": _throughput,
    "loss_by_position": _positions,
}
"""File name -> function that draws the plot."""


# --- How it is drawn --------------------------------------------------------------------------------------------------


def thinned(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS) -> Series:
    """At most `most` points: neighbors are merged into their mean, with their minimum and maximum."""
    if not len(x):
        return Series(x, y, y, y)
    groups = min(most, len(x))
    starts = np.arange(groups) * len(x) // groups
    counts = np.diff(starts, append=len(x))
    mean_x, mean_y = (np.add.reduceat(values, starts) / counts for values in (x, y))
    return Series(mean_x, mean_y, np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts))


def smoothed(y: np.ndarray, windows: int = WINDOWS_OF_SMOOTHING) -> np.ndarray:
    """The running median: unlike a mean, it follows a steep fall and ignores single spikes."""
    half = len(y) // windows // 2
    around = np.pad(y, half, constant_values=np.nan)
    return np.nanmedian(np.lib.stride_tricks.sliding_window_view(around, 2 * half + 1), axis=1) if len(y) else y


def _noisy(axes: Axes, steps: np.ndarray, values: np.ndarray, colour: str, label: str) -> None:
    """A noisy series: faint as it is, with its running median as a strong line."""
    series = thinned(steps, values)
    axes.plot(series.x, series.y, color=colour, alpha=0.25, linewidth=0.9)
    axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.16, linewidth=0)
    _strong(axes, series.x, smoothed(series.y), colour, _with_last(label, smoothed(series.y)))


def _clear(axes: Axes, steps: np.ndarray, values: np.ndarray, colour: str, label: str) -> None:
    """A series without noise."""
    series = thinned(steps, values)
    _strong(axes, series.x, series.y, colour, _with_last(label, values))


def _strong(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str, label: str) -> None:
    marker = {"marker": "o", "markersize": 4.5} if 0 < len(x) <= 30 else {}
    axes.plot(x, y, color=colour, linewidth=2, label=label or None, **marker)


def _with_last(label: str, values: np.ndarray) -> str:
    return f"{label} {values[-1]:.4g}" if label and len(values) else ""


def _finish(axes: Axes, data: PlotData, title: str, unit: str, values: Sequence[float] | np.ndarray) -> None:
    """What all plots over steps have in common: steps on the bottom axis, tokens on the top axis."""
    last = max(data.rows[-1]["step"], 1) if data.rows else 1
    axes.set_xlim(-0.03 * last, 1.03 * last)  # the same in all plots of a run
    axes.set_xlabel("steps")
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=ROUND, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _describe(axes, title, unit, values)
    if ratio := data.tokens_per_step:
        above = axes.secondary_xaxis("top", functions=(_times(ratio), _times(1 / ratio)))
        above.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
        above.xaxis.set_major_formatter(FuncFormatter(_in_short))
        above.spines["top"].set_visible(False)
        above.tick_params(length=0, labelsize=8.5, labelcolor=FAINT)
        place = {"xycoords": "axes fraction", "xytext": (-8, 4), "textcoords": "offset points"}
        axes.annotate("tokens", (0, 1), **place, ha="right", va="bottom", fontsize=8.5, color=FAINT)
    _legend(axes)


def _times(factor: float) -> Callable[[Any], Any]:
    return lambda values: values * factor


def _in_short(value: float, _: int) -> str:
    """12500000 -> 12.5 M."""
    for unit, name in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def _from_zero(axes: Axes, values: np.ndarray) -> None:
    axes.set_ylim(0, 1.08 * np.nanmax(values, initial=0) or 1)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=ROUND))


def _describe(axes: Axes, title: str, unit: str, values: Sequence[float] | np.ndarray) -> None:
    """Title and unit; a logarithmic axis if the range of `values` is too wide for a linear one."""
    axes.set_title(title)
    axes.set_ylabel(unit)
    if len(values) and min(values) > 0 and max(values) >= LOGARITHMIC_FROM * min(values):
        axes.set_yscale("log")
        decades = np.log10(max(values) / min(values))
        axes.yaxis.set_major_locator(LogLocator(subs=next(subs for most, subs in SUBDIVISIONS if decades < most)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _legend(axes: Axes) -> None:
    """Put the legend beside the title: inside the axes it would cover the curves of some runs."""
    labels = axes.get_legend_handles_labels()[1]
    if not labels:
        return
    height = 15.5 if axes.child_axes else 1.5  # points from the axes to the title: above the token axis, or without one
    place = offset_copy(axes.transAxes, axes.get_figure(root=True), y=height, units="points")
    style = {"ncols": len(labels), "fontsize": 9, "columnspacing": 1.4, "handlelength": 1.6, "borderaxespad": 0}
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), bbox_transform=place, **style)
