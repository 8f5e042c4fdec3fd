"""Samples side by side: a column per run, a row per step; for one run, the steps side by side."""

from collections.abc import Sequence
from typing import Any

from llamita.experiments.report.gather import Entry, Material
from llamita.experiments.report.markup import Markup, element
from llamita.train import RunDirectory

MOST_STEPS, MOST_RUNS = 6, 6
MOST_CHARACTERS = 900


def samples_section(material: Material) -> Markup:
    """The first sample of each run, or of one run per group, at a few steps from the first to the last."""
    members = [entries for entries in material.groups.values() if any(_rows(entry) for entry in entries)]
    chosen = [next(entry for entry in entries if _rows(entry)) for entries in members]
    left_out, chosen = chosen[MOST_RUNS:], chosen[:MOST_RUNS]
    if not chosen:
        return element(
            "section", element("h2", "Samples"), element("p", "No run has written samples yet."), id="samples"
        )
    rows = {entry.name: {row["step"]: row for row in _rows(entry)} for entry in chosen}
    steps = _evenly(sorted({step for by_step in rows.values() for step in by_step}))
    if len(chosen) == 1:
        only = rows[chosen[0].name]
        body = [element("div", *(_card(f"step {step:,}", only.get(step)) for step in steps), class_="cards")]
    else:
        body = [
            element(
                "details",
                element("summary", f"Step {step:,}"),
                element("div", *(_card(name, by_step.get(step)) for name, by_step in rows.items()), class_="cards"),
                open=step == steps[-1],
            )
            for step in steps
        ]
    note = f"Not shown: {', '.join(entry.name for entry in left_out)}." if left_out else None
    return element("section", element("h2", "Samples"), *body, element("p", note) if note else None, id="samples")


def _rows(entry: Entry) -> list[dict[str, Any]]:
    """The lines of samples.jsonl that have samples."""
    rows = RunDirectory(entry.result.path).samples.rows() if entry.has_started else []
    return [row for row in rows if row.get("samples")]


def _evenly(steps: Sequence[int]) -> list[int]:
    """The first and the last step, and some evenly spaced between them."""
    if len(steps) <= MOST_STEPS:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (MOST_STEPS - 1))] for i in range(MOST_STEPS)]


def _card(title: str, row: dict[str, Any] | None) -> Markup:
    """The first sample of a line of samples.jsonl, under a title."""
    if row is None:
        return element("article", element("h3", title), element("p", "no sample at this step", class_="note"))
    text = str(row["samples"][0]).strip()
    shown = text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} …"
    accepted = row.get("accepted")
    judged = f"{accepted:.0%} of {len(row['samples'])} accepted by the judge" if accepted is not None else None
    note = element("p", judged, class_="note") if judged else None
    return element("article", element("h3", title), element("p", shown or "(empty)", class_="sample-text"), note)
