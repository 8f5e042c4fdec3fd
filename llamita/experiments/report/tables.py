"""The tables of a report: runs and their results, settings that differ, hardware and versions, commands."""

import math
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from llamita import __version__
from llamita.config import RunConfig
from llamita.console import shell_line
from llamita.experiments.report.gather import Entry, Material
from llamita.experiments.report.markup import Markup, element, join
from llamita.experiments.report.scale import short
from llamita.train import RunDirectory
from llamita.train.display import clock_time

HARDWARE = {
    "device": "device",
    "processor": "processor",
    "precision": "precision",
    "kernels": "kernels",
    "compile": "torch.compile",
    "threads": "threads",
    "world_size": "processes",
    "micro_batch_size": "micro-batch",
    "torch": "torch",
    "code_digest": "code",
}
"""Name of a fact in config.toml -> the heading of its row."""
DIGITS_OF_DIGEST = 12
SEED, CONTENT = "seed", "contents of the data"


def table(head: Sequence[str], rows: Sequence[Sequence[str | Markup]], caption: str) -> Markup:
    """A table that scrolls within the page where it is too wide for it; the first column names the rows."""
    header = element("tr", *(element("th", name, scope="col") for name in head))
    body = [
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])) for row in rows
    ]
    drawn = element("table", element("thead", header), element("tbody", *body))
    return element("div", drawn, class_="scroll", tabindex=0, role="region", aria_label=caption)


def runs_section(material: Material) -> Markup:
    """One row per run: how far it is, what it cost, and how good it is."""
    has_floor = any(entry.result.loss_floor is not None for entry in material.started)
    head = ["run", "status", "validation loss", *(["above the floor"] if has_floor else []), "best", "bits per byte"]
    head += ["steps", "tokens", "FLOPs", "training time", "parameters"]
    rows = [_run_row(entry, has_floor) for entry in material.entries]
    errors = [
        element("p", element("strong", entry.name), f": {entry.result.outcome.error}", class_="note")
        for entry in material.entries
        if entry.result.outcome.error
    ]
    return element("section", element("h2", "Runs"), table(head, rows, "Runs"), *errors, id="runs")


def _run_row(entry: Entry, has_floor: bool) -> list[str | Markup]:
    result, status = entry.result, entry.status
    losses = result.validation()[1]
    floor = result.loss_floor
    badge = element("span", status, class_=f"status {status}")
    above = f"{result.val_loss - floor:.4f}" if floor is not None and len(losses) else "–"
    bits = [row["bits_per_byte"] for row in result.metrics if row.get("bits_per_byte") is not None]
    best = f"{min(losses):.4f}" if len(losses) else "–"
    cells = [entry.name, badge, _loss(result.val_loss), *([above] if has_floor else []), best]
    if not entry.has_started:
        return [*cells, *["–"] * 6]
    cells += [f"{bits[-1]:.4f}" if bits else "–", f"{result.step:,}", f"{result.tokens:,}", f"{result.flops:.3g}"]
    return [*cells, clock_time(result.seconds), f"{result.parameters:,}"]


def _loss(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "–"


def differences_section(material: Material) -> Markup:
    """The settings that differ between runs, or for one configuration, those that differ from the defaults.

    Runs that differ in their seed only share a row.
    """
    rows = {entry.name: _settings(entry) for entry in material.started}
    every = list(rows.values())
    names = [name for name in every[0] if name != SEED and len({_shown(settings, name) for settings in every}) > 1]
    if CONTENT in names and _follows(every, CONTENT, (SEED, "data")):  # the seed makes the built-in stories
        names.remove(CONTENT)
    heading = "Settings that differ"
    if not names:
        return _against_defaults(material.started[0], len(rows))
    merged: dict[tuple[str, ...], list[Entry]] = {}
    for entry in material.started:
        merged.setdefault((entry.group, *(_shown(rows[entry.name], name) for name in names)), []).append(entry)
    lines = [[group, *values, _seeds(entries)] for (group, *values), entries in merged.items()]
    drawn = table(["run", *names, "seeds"], lines, heading)
    return element("section", element("h2", heading), drawn, id="settings")


def _seeds(entries: Sequence[Entry]) -> str:
    return ", ".join(str(entry.result.run.seed) for entry in entries)


def _settings(entry: Entry) -> dict[str, Any]:
    """What decides the results of a run, by flat name: its identity, its data, and the precision."""
    directory = RunDirectory(entry.result.path)
    config, facts = directory.config(), directory.facts()
    of_data = {"data": config.data.data, "tokenizer": config.data.tokenizer}
    content = {CONTENT: str(facts.get("data_fingerprint", "unknown"))[:DIGITS_OF_DIGEST]}
    return {**config.identity(), **of_data, **content, "precision": facts.get("precision", "unknown")}


def _follows(every: Sequence[Mapping[str, Any]], name: str, others: Sequence[str]) -> bool:
    """Whether runs that agree in `others` agree in `name`, too."""
    keys = [tuple(_shown(settings, other) for other in others) for settings in every]
    return len(set(keys)) == len({(*key, _shown(settings, name)) for key, settings in zip(keys, every, strict=True)})


def _shown(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name, "unknown")
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _against_defaults(entry: Entry, runs: int) -> Markup:
    """A table of the settings of one configuration that differ from the defaults."""
    config, default = RunDirectory(entry.result.path).config(), RunConfig()
    mine, theirs = config.identity(), default.identity()
    mine.update({"data": config.data.data, "tokenizer": config.data.tokenizer})
    theirs.update({"data": default.data.data, "tokenizer": default.data.tokenizer})
    lines = [[n, _shown(mine, n), _shown(theirs, n)] for n in mine if _shown(mine, n) != _shown(theirs, n)]
    same = "All runs have the same settings, apart from the seed. " if runs > 1 else ""
    said = "These settings differ from the defaults:" if lines else "Every setting has its default."
    drawn = table(["setting", "here", "default"], lines, "Settings that differ from the defaults") if lines else None
    return element("section", element("h2", "Settings"), element("p", same + said), drawn, id="settings")


def machine_section(material: Material) -> Markup:
    """Hardware and versions: one column for all runs, and one for each set of values that some runs share."""
    facts = {entry.name: RunDirectory(entry.result.path).facts() for entry in material.started}
    columns: dict[tuple[str, ...], list[str]] = {}
    for name, known in facts.items():
        values = tuple(
            str(known.get(fact, "unknown"))[: 80 if fact != "code_digest" else DIGITS_OF_DIGEST] for fact in HARDWARE
        )
        columns.setdefault(values, []).append(name)
    heads = ["all runs"] if len(columns) == 1 else [_some(names) for names in columns.values()]
    rows = [[title, *(values[i] for values in columns)] for i, title in enumerate(HARDWARE.values())]
    made = f"Report made by llamita {__version__} with Python {platform.python_version()}."
    drawn = table(["", *heads], rows, "Hardware and versions")
    return element("section", element("h2", "Hardware and versions"), drawn, element("p", made), id="machine")


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def commands_section(material: Material) -> Markup:
    """How to repeat each run, and how to make this report again."""
    lines = [
        shell_line("llamita", "train", "--config", entry.result.path / "config.toml") for entry in material.started
    ]
    again = shell_line("llamita", "report", *material.paths)
    sweeps = [sweep.command for sweep in material.sweeps if sweep.command]
    return element(
        "section",
        element("h2", "Commands"),
        *([element("p", "All runs of a sweep:"), _commands(sweeps)] if sweeps else []),
        element(
            "p", "Each repeats one run, bit for bit on the same kind of processor with the same versions and code:"
        ),
        _commands(lines),
        element("p", "This report:"),
        _commands([again]),
        id="commands",
    )


def _commands(lines: Sequence[str]) -> Markup:
    return element("pre", "\n".join(lines), class_="commands", tabindex=0)


def tiles(material: Material) -> Markup:
    """The most important numbers, large."""
    started = material.started
    losses = [(entry.result.val_loss, entry) for entry in started if math.isfinite(entry.result.val_loss)]
    lowest = [entry.result.loss_floor for entry in started if entry.result.loss_floor is not None]
    shown = {"runs": f"{len(material.entries):,}"}
    if losses:
        loss, best = min(losses, key=lambda pair: pair[0])
        shown["lowest validation loss at the end"] = f"{loss:.4f}"
        if len(started) > 1:
            shown["reached by"] = best.name
    if lowest:
        low, high = f"{min(lowest):.4f}", f"{max(lowest):.4f}"
        shown["loss floor"] = low if low == high else f"{low}–{high}"
    shown["tokens"] = short(sum(entry.result.tokens for entry in started))
    shown["time of training steps"] = clock_time(sum(entry.result.seconds for entry in started))
    cells = [element("div", element("dt", name), element("dd", value)) for name, value in shown.items()]
    return join(element("dl", *cells, class_="tiles"))
