"""Pictures of a run: what its log holds, against steps below and tokens above, and the loss by position.

Nothing here needs a display. matplotlib comes with this module, and takes half a second: import it only to plot.
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
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same picture everywhere
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
    "axes.formatter.useoffset": False,  # nor a power of ten: it would stand in the corner of `tokens`
    "axes.formatter.limits": (-9, 12),
    "grid.color": "#edf2f7",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": GREY,
    "ytick.labelcolor": GREY,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
}
MOST_POINTS = 600  # a picture is about as many pixels wide
LOGARITHMIC_FROM = 4  # times the smallest value: a range that a linear axis would squash
WINDOWS_OF_SMOOTHING = 40
ROUND = (1, 2, 2.5, 5, 10)  # ticks of linear axes are multiples of these times a power of ten
LONGEST_NAME = 30  # characters that have room beside what an axis is called
SUBDIVISIONS = ((1.2, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)), (3.2, (1.0, 2.0, 5.0)), (np.inf, (1.0,)))
"""Below how many decades a logarithmic axis has its ticks at which multiples of powers of ten."""


class Series(NamedTuple):
    """Values over x, both (points,); where points were merged, `low` and `high` say how far they scattered."""

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Pictured:
    """What there is to draw: the rows of metrics.jsonl, the loss floor (nats/token), the losses by position."""

    rows: Sequence[Mapping[str, Any]]
    floor: float | None = None
    positions: PositionLosses | None = None

    def points(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of a column, where it has finite ones."""
        pairs = [(row["step"], row[name]) for row in self.rows if row.get(name) is not None]
        steps, values = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        return steps[np.isfinite(values)], values[np.isfinite(values)]

    @property
    def tokens_per_step(self) -> float:
        """On average; 0 where no step was made."""
        last = self.rows[-1] if self.rows else {}
        return last.get("tokens", 0) / last["step"] if last.get("step") else 0.0


Drawing = Callable[[Axes, Pictured], bool]
"""Draws on the axes, and says whether there was anything to draw."""


def write_plots(folder: str | Path, pictured: Pictured, title: str = "") -> list[Path]:
    """Write the PNGs of `DRAWINGS` that there is something for, and overview.png with all of them -> their paths.

    `title`, such as the name of the run, stands small in each. Raises `UserError` where the folder cannot be written.
    """
    folder = Path(folder)
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figures = {name: _single(draw, pictured, title) for name, draw in DRAWINGS.items()}
        figures = {name: figure for name, figure in figures.items() if figure is not None}
        if len(figures) > 1:
            figures["overview"] = _overview([DRAWINGS[name] for name in figures], pictured, title)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, figure in figures.items():
                figure.savefig(folder / f"{name}.png")
        except OSError as error:
            raise UserError(f"{folder}: the plots cannot be written there ({error.strerror or error})") from None
    return [folder / f"{name}.png" for name in figures]


def _single(draw: Drawing, pictured: Pictured, title: str) -> Figure | None:
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    _name(figure, title)
    return figure if draw(figure.add_subplot(), pictured) else None


def _overview(draws: Sequence[Drawing], pictured: Pictured, title: str) -> Figure:
    columns = min(3, len(draws))
    rows = -(-len(draws) // columns)
    figure = Figure(figsize=(6.2 * columns, 4.1 * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr]
    _name(figure, title)
    for number, draw in enumerate(draws):
        draw(figure.add_subplot(rows, columns, number + 1), pictured)
    return figure


def _name(figure: Figure, title: str) -> None:
    """In the corner below, where no curve is; of a long name the end, which tells runs apart."""
    shown = title if len(title) <= LONGEST_NAME else f"…{title[1 - LONGEST_NAME :]}"
    figure.text(0.99, 0.015, shown, ha="right", va="bottom", fontsize=9, color=FAINT)


# --- What there is to see ---------------------------------------------------------------------------------------------


def _loss(axes: Axes, pictured: Pictured) -> bool:
    trained, validated = pictured.points("train_loss"), pictured.points("val_loss")
    _noisy(axes, *trained, BLUE, "training")
    _clear(axes, *validated, ORANGE, "validation")
    if pictured.floor is not None:
        label = f"floor {pictured.floor:.3f}"
        axes.axhline(pictured.floor, color=GREEN, linewidth=1.4, linestyle=(0, (5, 3)), label=label)
    known = [*trained[1], *validated[1]]
    _finish(axes, pictured, "Loss", "nats per token", [*known, pictured.floor or known[0]] if known else [])
    return bool(known)


def _perplexity(axes: Axes, pictured: Pictured) -> bool:
    steps, values = pictured.points("perplexity")
    _clear(axes, steps, values, ORANGE, "validation")
    _finish(axes, pictured, "Perplexity", "exp(loss)", values)
    return len(values) > 0


def _learning_rate(axes: Axes, pictured: Pictured) -> bool:
    steps, values = pictured.points("lr")
    _clear(axes, steps, values, BLUE, "")
    _finish(axes, pictured, "Learning rate", "step size of AdamW", [])
    _from_zero(axes, values)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("e-0", "e-")))
    return len(values) > 0


def _speed(axes: Axes, pictured: Pictured) -> bool:
    steps, values = pictured.points("tokens_per_second")
    _noisy(axes, steps, values, BLUE, "")
    _finish(axes, pictured, "Speed", "tokens per second", [])
    _from_zero(axes, values)
    axes.yaxis.set_major_formatter(FuncFormatter(_in_short))
    return len(values) > 0


def _gradient(axes: Axes, pictured: Pictured) -> bool:
    steps, values = pictured.points("grad_norm")
    _noisy(axes, steps, values, BLUE, "")
    _finish(axes, pictured, "Gradient norm", "L2 norm before clipping", values)
    return len(values) > 0


def _positions(axes: Axes, pictured: Pictured) -> bool:
    if pictured.positions is None:
        return False
    means, groups = pictured.positions.means(), pictured.positions.by_doubling()
    common = pictured.positions.targets >= pictured.positions.targets.max() / 20  # few documents reach the others
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
    "tokens_per_second": _speed,
    "loss_by_position": _positions,
}
"""Names of files, and what they show."""


# --- How it is drawn --------------------------------------------------------------------------------------------------


def thinned(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS) -> Series:
    """At most `most` points: neighbours are merged into their mean, and their least and greatest value kept."""
    if not len(x):
        return Series(x, y, y, y)
    groups = min(most, len(x))
    starts = np.arange(groups) * len(x) // groups
    counts = np.diff(starts, append=len(x))
    mean_x, mean_y = (np.add.reduceat(values, starts) / counts for values in (x, y))
    return Series(mean_x, mean_y, np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts))


def smoothed(y: np.ndarray, windows: int = WINDOWS_OF_SMOOTHING) -> np.ndarray:
    """The median of the values around each: unlike a mean, it follows a steep fall and passes over single spikes."""
    half = len(y) // windows // 2
    around = np.pad(y, half, constant_values=np.nan)
    return np.nanmedian(np.lib.stride_tricks.sliding_window_view(around, 2 * half + 1), axis=1) if len(y) else y


def _noisy(axes: Axes, steps: np.ndarray, values: np.ndarray, colour: str, label: str) -> None:
    """What scatters: as it is, faint, and its course in a strong line."""
    series = thinned(steps, values)
    axes.plot(series.x, series.y, color=colour, alpha=0.25, linewidth=0.9)
    axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.16, linewidth=0)
    _strong(axes, series.x, smoothed(series.y), colour, _with_last(label, smoothed(series.y)))


def _clear(axes: Axes, steps: np.ndarray, values: np.ndarray, colour: str, label: str) -> None:
    """What does not scatter."""
    series = thinned(steps, values)
    _strong(axes, series.x, series.y, colour, _with_last(label, values))


def _strong(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str, label: str) -> None:
    marker = {"marker": "o", "markersize": 4.5} if 0 < len(x) <= 30 else {}
    axes.plot(x, y, color=colour, linewidth=2, label=label or None, **marker)


def _with_last(label: str, values: np.ndarray) -> str:
    return f"{label} {values[-1]:.4g}" if label and len(values) else ""


def _finish(axes: Axes, pictured: Pictured, title: str, unit: str, values: Sequence[float] | np.ndarray) -> None:
    """What all pictures over time share: steps below, tokens above."""
    last = max(pictured.rows[-1]["step"], 1) if pictured.rows else 1
    axes.set_xlim(-0.03 * last, 1.03 * last)  # the same in all pictures of a run
    axes.set_xlabel("steps")
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=ROUND, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _describe(axes, title, unit, values)
    if ratio := pictured.tokens_per_step:
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
    """Title and unit; a logarithmic axis where `values` span so much that a linear one would squash them."""
    axes.set_title(title)
    axes.set_ylabel(unit)
    if len(values) and min(values) > 0 and max(values) >= LOGARITHMIC_FROM * min(values):
        axes.set_yscale("log")
        decades = np.log10(max(values) / min(values))
        axes.yaxis.set_major_locator(LogLocator(subs=next(subs for most, subs in SUBDIVISIONS if decades < most)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _legend(axes: Axes) -> None:
    """Beside the title: within the axes it would lie on the curves of one run or another."""
    labels = axes.get_legend_handles_labels()[1]
    if not labels:
        return
    height = 15.5 if axes.child_axes else 1.5  # points from the axes up to the title: above that of the tokens, or not
    place = offset_copy(axes.transAxes, axes.get_figure(root=True), y=height, units="points")
    style = {"ncols": len(labels), "fontsize": 9, "columnspacing": 1.4, "handlelength": 1.6, "borderaxespad": 0}
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), bbox_transform=place, **style)
