"""Run the training benchmarks one by one, and report them line by line.

Results are written after each part, since a full run takes many minutes.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.markdown import header, paragraph
from training import baseline, busy, full_run, peers, tables
from training.full_run import FullRunSetting
from training.peers import Setting
from training.results_file import Results
from training.shapes import SMALLEST, Shape


@dataclass(frozen=True)
class Plan:
    """What to measure, and where to write the results."""

    shapes: list[Shape]
    contexts: list[int]
    """More context lengths for the first shape, at equal tokens per step."""
    setting: Setting
    file: Path

    def all_shapes(self) -> list[Shape]:
        """The shapes, and the first one at each context length, without duplicates."""
        return list(dict.fromkeys([*self.shapes, *self.longer()]))

    def longer(self) -> list[Shape]:
        """The first shape at each context length."""
        return [self.shapes[0].with_context(length) for length in self.contexts]


def report_peers(plan: Plan, run: FullRunSetting | None, results: Results) -> Iterator[str]:
    """llamita against its peers; with `run`, also a complete `llamita train` -> lines of Markdown."""
    yield header(tables.COLUMNS)
    for shape in plan.all_shapes():
        results.rows.append(peers.measure(shape, plan.setting))
        results.write(plan.file)
        yield tables.row_line(results.rows[-1])
    yield from paragraph(tables.notes(results.rows, plan.setting.compiled))
    yield from paragraph(tables.step_parts(results.rows))
    yield from paragraph(tables.other_models(results.rows))
    if len(plan.contexts) > 1:
        results.scaling = peers.measure_scaling(plan.longer(), plan.setting)
        results.write(plan.file)
        yield from paragraph(tables.scaling_lines(results.scaling))
    if run:
        results.full_run = full_run.measure_full_run(plan.shapes[0], run)
        results.write(plan.file)
        yield from paragraph(tables.full_run_lines(results.full_run))


def report_baseline(plan: Plan, checkout: Path, results: Results) -> Iterator[str]:
    """This llamita against that of `checkout` -> lines of Markdown."""
    with tempfile.TemporaryDirectory() as caches:
        sides = baseline.choose_sides(checkout, Path(caches))
        yield f"new: {sides.new}\nold: {sides.old}\n"
        yield header(baseline.COLUMNS)
        for shape in plan.all_shapes():
            results.baseline.append(baseline.measure_baseline(shape, sides, plan.setting))
            results.write(plan.file)
            yield baseline.row_line(results.baseline[-1])
    yield from paragraph(baseline.notes(results.baseline))


def report_busy(plan: Plan, results: Results) -> Iterator[str]:
    """The first shape and the smallest one, idle and next to a busy process -> lines of Markdown."""
    yield header(busy.COLUMNS)
    for shape in dict.fromkeys([plan.shapes[0], SMALLEST]):
        results.busy.append(busy.measure_busy(shape, plan.setting))
        results.write(plan.file)
        yield from busy.row_lines(results.busy[-1])
    yield from paragraph(busy.notes(results.busy))
