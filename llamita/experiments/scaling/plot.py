"""The plot of a scaling study: losses against compute with the law, and the isoFLOP parabolas."""

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from llamita.evaluate.plots import BLUE, FAINT, GREEN, ORANGE, STYLE
from llamita.experiments.scaling.ladder import si
from llamita.experiments.scaling.study import Study

FILES = "scaling.svg", "scaling.png"


def write_plot(study: Study, comparison: dict[str, Any] | None = None) -> list[Path]:
    """Write scaling.svg and scaling.png into the directory of the sweep -> their paths."""
    paths = [study.sweep.path / name for name in FILES]
    with mpl.rc_context({**STYLE, "svg.hashsalt": "llamita"}):  # type: ignore[arg-type]
        figure = Figure(figsize=(11, 4.8), layout="constrained")
        compute, sizes = figure.subplots(1, 2)
        draw_compute(compute, study, comparison)
        draw_isoflops(sizes, study)
        for path in paths:
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def draw_compute(axes: Axes, study: Study, comparison: dict[str, Any] | None) -> None:
    """Loss over FLOPs: each size a curve of the law through its runs; the held-out run beside its prediction."""
    widths = sorted({result.model.hidden_size for result in study.single_epoch})
    colors = dict(zip(widths, mpl.colormaps["viridis"](np.linspace(0, 0.9, len(widths))), strict=True))
    for width in widths:
        runs = [result for result in study.single_epoch if result.model.hidden_size == width]
        flops = np.array([result.flops for result in runs])
        curve = np.geomspace(flops.min() / 1.3, flops.max() * 1.3, 50)
        label = f"{si(runs[0].parameters)} parameters"
        axes.plot(flops, [result.val_loss for result in runs], "o", color=colors[width], label=label, markersize=5)
        tokens = curve / runs[0].flops_per_token
        axes.plot(curve, study.law.loss(runs[0].parameters, tokens), color=colors[width], linewidth=1.2)
    if comparison:
        _held_out(axes, comparison)
    if study.floor is not None:
        axes.axhline(study.floor, color=GREEN, linestyle=(0, (5, 3)), label=f"loss floor {study.floor:.3f}")
    lowest = min(study.points.L.min(), study.floor or math.inf)
    fitted = study.free_law.E
    axes.axhline(fitted, color=FAINT, linestyle=":", label=f"fitted E {fitted:.3f}")
    axes.set_ylim(bottom=0.9 * max(min(lowest, fitted), lowest / 2))  # an E near zero would flatten all curves
    _logarithmic(axes, "FLOPs of training", f"L = E + A/N^{study.law.alpha:.2f} + B/D^{study.law.beta:.2f}")


def draw_isoflops(axes: Axes, study: Study) -> None:
    """Loss over parameters at each budget, with its parabola and minimum."""
    colors = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(study.by_budget)))
    parabolas = {parabola.flops: parabola for parabola in study.parabolas}
    for (budget, runs), color in zip(study.by_budget.items(), colors, strict=True):
        runs = sorted(runs, key=lambda run: run.parameters)
        sizes, losses = [r.parameters for r in runs], [r.val_loss for r in runs]
        axes.plot(sizes, losses, "o", color=color, markersize=5, label=f"{budget:.2g} FLOPs")
        if parabola := parabolas.get(budget):
            curve = np.geomspace(min(sizes), max(sizes), 50)
            axes.plot(curve, parabola.at(curve), color=color, linewidth=1.2)
            axes.plot(parabola.parameters, parabola.loss, "*", color=color, markersize=12)
    _logarithmic(axes, "parameters", "Loss at equal FLOPs; stars: minima")


def _held_out(axes: Axes, comparison: dict[str, Any]) -> None:
    low, high = comparison["loss"] - comparison["low"], comparison["high"] - comparison["loss"]
    spread = [[max(low, 0)], [max(high, 0)]]
    style = {"fmt": "D", "color": ORANGE, "markerfacecolor": "none", "capsize": 3, "label": "predicted before training"}
    axes.errorbar([comparison["flops"]], [comparison["loss"]], yerr=spread, **style)
    axes.plot([comparison["flops"]], [comparison["trained_loss"]], "x", color=BLUE, label="held-out run", markersize=8)


def _logarithmic(axes: Axes, unit: str, title: str) -> None:
    for axis, set_scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
        set_scale("log")
        axis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: si(value) if value < 1e10 else f"{value:.0e}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.set_xlabel(unit)
    axes.set_ylabel("validation loss, nats per token")
    axes.set_title(title)
    axes.legend(fontsize=8)
