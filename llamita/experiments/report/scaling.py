"""A scaling study: the fitted law through its runs, the isoFLOP parabolas, and how the prediction did."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llamita.experiments.report.chart import Chart, Line, legend
from llamita.experiments.report.gather import Material
from llamita.experiments.report.markup import Markup, element
from llamita.experiments.report.scale import short
from llamita.experiments.report.tables import table
from llamita.experiments.scaling import ScalingLaw
from llamita.experiments.scaling.isoflop import Parabola
from llamita.experiments.scaling.ladder import KIND, ROUNDING
from llamita.experiments.scaling.law import CONSTANTS, interval, shown
from llamita.experiments.scaling.study import REPORT_FILE
from llamita.experiments.sweep import Sweep

LOSS = "validation loss, nats per token"
FORM = "L(N, D) = E + A/N^α + B/D^β, N being all parameters and D the tokens of training."
HELD_OUT = ["predicted, with its interval", "held-out run"]  # in the legend
POINTS = 50  # of a curve
BEYOND = 1.3  # a law is drawn this factor beyond its runs

Row = Mapping[str, Any]
"""A run, as scaling.json has it."""


def scaling_section(material: Material) -> Markup | None:
    """One part for each ladder of the report; None if there is none."""
    parts = [_study(sweep, len(material.paths) > 1) for sweep in material.sweeps if sweep.plan.kind == KIND]
    return element("section", element("h2", "Scaling law"), *parts, id="scaling") if parts else None


def _study(sweep: Sweep, is_named: bool) -> Markup:
    file = sweep.path / REPORT_FILE
    name = element("h3", str(sweep.path)) if is_named else None
    if not file.exists():
        note = "Not fitted yet: `llamita scaling` fits the law when all runs of the ladder have ended."
        return element("div", name, element("p", note, class_="note"))
    found = json.loads(file.read_text(encoding="utf-8"))
    rows = [row for row in found["runs"] if row["epochs"] <= ROUNDING]
    held_out = found["held_out"]
    widths = [f"{width} wide" for width in _values(rows, "width")] + HELD_OUT * (held_out is not None)
    figures = _figure(_compute_chart(found, rows), widths), _isoflop_figure(sweep, found, rows)
    return element(
        "div",
        name,
        element("p", FORM, class_="note"),
        element("div", *figures, class_="figures"),
        table(_heads(found), _constants(found), "Constants of the law, with 95 % intervals of the bootstrap"),
        element("p", _said_of_held_out(held_out)) if held_out else None,
    )


def _heads(found: Row) -> list[str]:
    floor = found["loss_floor"]
    known = [f"with E = {floor:.4f}, the loss floor", "95 % interval"] if floor is not None else []
    return ["", *known, "with E fitted", "95 % interval (bootstrap)"]


def _constants(found: Row) -> list[list[str]]:
    """A row for each constant: its values with E known, where it is, and with E fitted."""
    kinds = ["free"] if found["loss_floor"] is None else ["", "free"]
    return [[name, *(cell for kind in kinds for cell in _constant(found, name, kind))] for name in CONSTANTS]


def _constant(found: Row, name: str, kind: str) -> list[str]:
    """A constant of the law of this kind, and its interval."""
    prefix = kind and f"{kind}_"
    low, high = interval([law[name] for law in found[f"{prefix}bootstrap"]])
    return [shown(found[f"{prefix}law"][name]), f"{shown(low)} to {shown(high)}"]


def _said_of_held_out(held_out: Row) -> str:
    distance = held_out["error_of_distance"]
    floor = "" if distance is None else f", and {distance:+.1%} of its distance to the loss floor"
    return (
        f"Held-out run, {short(held_out['parameters'])} parameters and {short(held_out['trained_tokens'])} tokens: "
        f"predicted {held_out['loss']:.4f} ({held_out['low']:.4f} to {held_out['high']:.4f}) before it was trained, "
        f"measured {held_out['trained_loss']:.4f}: an error of {held_out['relative_error']:+.2%} of the loss{floor}."
    )


def _figure(chart: Chart, names: Sequence[str]) -> Markup:
    """The chart, with a legend: the names of its colours."""
    numbered = legend([(name, index) for index, name in enumerate(names)])
    return element("figure", element("figcaption", chart.title), numbered, chart.svg())


def _values(rows: Sequence[Row], name: str) -> list[Any]:
    return sorted({row[name] for row in rows})


def _compute_chart(found: Row, rows: Sequence[Row]) -> Chart:
    """Loss over FLOPs: for each width the law, and the runs as dots; the held-out run beside its prediction."""
    law, lines = ScalingLaw(**found["law"]), list[Line]()
    for colour, width in enumerate(_values(rows, "width")):
        runs = sorted((row for row in rows if row["width"] == width), key=lambda row: row["flops"])
        flops, losses = _columns(runs, "flops", "loss")
        curve = np.geomspace(flops[0] / BEYOND, flops[-1] * BEYOND, POINTS)
        tokens = curve * runs[0]["tokens"] / runs[0]["flops"]
        lines.append(Line(f"law, {width} wide", curve, law.loss(runs[0]["parameters"], tokens), colour))
        lines.append(Line(f"runs, {width} wide", flops, losses, colour, marks=True, is_joined=False))
    if held_out := found["held_out"]:
        at = np.array([held_out["flops"]] * 3)
        predicted = np.array([held_out["low"], held_out["loss"], held_out["high"]])
        colour = len(_values(rows, "width"))
        lines.append(Line("predicted for the held-out run", at, predicted, colour, marks=True))
        trained = np.array([held_out["trained_loss"]])
        lines.append(Line("held-out run", at[:1], trained, colour + 1, marks=True, is_joined=False))
    floor = None if found["loss_floor"] is None else (found["loss_floor"],) * 2
    return Chart("Loss against compute: runs, and the law", "FLOPs", LOSS, lines, floor, is_log_x=True, is_log_y=True)


def _isoflop_figure(sweep: Sweep, found: Row, rows: Sequence[Row]) -> Markup:
    """Loss over parameters at each budget: runs as dots, and the parabola where they determine one."""
    budgets = np.array(sweep.plan.details["budgets"], dtype=float)
    rows = [{**row, "budget": float(budgets[np.abs(np.log(budgets / row["flops"])).argmin()])} for row in rows]
    parabolas = {each["flops"]: Parabola(**each) for each in found["parabolas"]}
    lines = list[Line]()
    for colour, budget in enumerate(_values(rows, "budget")):
        runs = sorted((row for row in rows if row["budget"] == budget), key=lambda row: row["parameters"])
        sizes, losses = _columns(runs, "parameters", "loss")
        lines.append(Line(f"{short(budget)} FLOPs", sizes, losses, colour, marks=True, is_joined=False))
        if parabola := parabolas.get(budget):
            curve = np.geomspace(sizes[0], sizes[-1], POINTS)
            lines.append(Line(f"parabola of {short(budget)} FLOPs", curve, parabola.at(curve), colour))
    chart = Chart("Loss at equal FLOPs", "parameters", LOSS, lines, is_log_x=True, is_log_y=True)
    return _figure(chart, [f"{short(budget)} FLOPs" for budget in _values(rows, "budget")])


def _columns(rows: Sequence[Row], *names: str) -> list[np.ndarray]:
    return [np.array([row[name] for row in rows], dtype=float) for name in names]
