"""The result of an ablation: forest plots of its paired differences, and what they say."""

from collections.abc import Sequence

from llamita.experiments.ablation import groups_of
from llamita.experiments.ablation_report import verdict
from llamita.experiments.comparison import MEASURES, Comparison, Measure, compare
from llamita.experiments.report.forest import Difference, forest_plot
from llamita.experiments.report.gather import Material
from llamita.experiments.report.markup import Markup, element
from llamita.experiments.sweep import Sweep

X_TITLE = "difference of validation losses, nats per token; right of 0: worse"


def ablation_section(material: Material) -> Markup | None:
    """One part for each ablation of the report; None if there is none."""
    parts = [_ablation(sweep, len(material.paths) > 1) for sweep in material.sweeps if sweep.plan.kind == "ablation"]
    return element("section", element("h2", "Ablation"), *parts, id="ablation") if parts else None


def _ablation(sweep: Sweep, is_named: bool) -> Markup:
    compared = compare(sweep.results(), groups_of(sweep.plan))
    plots = [forest_plot(f"At equal {measure}", _rows(compared, measure), X_TITLE) for measure in MEASURES]
    explained = (
        "Mean of the paired differences with its 95 % interval (paired t-test); runs of a pair share their seed."
    )
    return element(
        "div",
        element("h3", str(sweep.path)) if is_named else None,
        element("p", explained, class_="note"),
        element("div", *plots, class_="figures"),
        element("ul", *(element("li", verdict(comparison)) for comparison in compared)),
    )


def _rows(compared: Sequence[Comparison], measure: Measure) -> list[Difference]:
    rows = []
    for comparison in compared:
        found = comparison.differences[measure]
        note = f"diverged in {comparison.diverged} of {comparison.runs}" if comparison.diverged else ""
        name = f"{comparison.group} − {comparison.reference}"
        rows.append(Difference(name, found.mean, found.low, found.high, found.pairs, note))
    return rows
