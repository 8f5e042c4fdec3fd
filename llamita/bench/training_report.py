"""All measurements of training, one after the other, as the lines that say what was found."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamita.bench import training, training_results, whole_run
from llamita.bench.shapes import Shape
from llamita.bench.training import Setting
from llamita.bench.training_file import Results
from llamita.bench.whole_run import WholeRunSetting


@dataclass(frozen=True)
class Plan:
    """What to measure, and where to keep it."""

    shapes: list[Shape]
    contexts: list[int]
    """Of the first of the shapes, at equal tokens a step."""
    setting: Setting
    whole: WholeRunSetting | None
    """None: leave out the whole run."""
    file: Path


def report(plan: Plan, older: dict[str, Any] | None) -> Iterator[str]:
    """Measure, and keep what there is after each part, since all of it takes many minutes -> lines of Markdown."""
    results = Results()
    longer = [plan.shapes[0].with_context(length) for length in plan.contexts]
    yield training_results.header()
    for shape in dict.fromkeys([*plan.shapes, *longer]):
        results.rows.append(training.measure(shape, plan.setting))
        results.write(plan.file)
        yield training_results.row_line(results.rows[-1])
    yield from _paragraph(training_results.notes(results.rows, plan.setting.compiled))
    yield from _paragraph(training_results.step_parts(results.rows))
    yield from _paragraph(training_results.other_models(results.rows))
    if len(longer) > 1:
        results.growth = training.measure_growth(longer, plan.setting)
        results.write(plan.file)
        yield from _paragraph(training_results.growth_lines(results.growth))
    if plan.whole:
        results.whole_run = whole_run.measure_whole_run(plan.shapes[0], plan.whole)
        results.write(plan.file)
        yield from _paragraph(training_results.whole_run_lines(results.whole_run))
    if older:
        yield from _paragraph(results.compared(older))
    yield f"\nkept in {plan.file}"


def _paragraph(lines: Iterator[str]) -> Iterator[str]:
    """The lines, if there are any, behind an empty one."""
    for number, line in enumerate(lines):
        yield line if number else f"\n{line}"
