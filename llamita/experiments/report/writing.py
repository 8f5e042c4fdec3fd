"""Writing the report of runs and sweeps into one HTML file."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from llamita.errors import UserError
from llamita.experiments.report.ablation import ablation_section
from llamita.experiments.report.curves import curves_section
from llamita.experiments.report.gather import Material, gather
from llamita.experiments.report.markup import element
from llamita.experiments.report.page import page
from llamita.experiments.report.samples import samples_section
from llamita.experiments.report.scaling import scaling_section
from llamita.experiments.report.tables import (
    commands_section,
    differences_section,
    machine_section,
    runs_section,
    tiles,
)
from llamita.files import write_atomically

REPORT_FILE = "report.html"


def write_report(paths: Sequence[str | Path], output: str | Path | None = None) -> Path:
    """Write the report of the runs and sweeps in these directories -> its path.

    `output`: the file; default: report.html in the directory of the only run or sweep, or here if there are several.
    It replaces an earlier report, atomically. Raises `UserError` for a path that is neither run nor sweep, and where
    nothing has started yet.
    """
    material = gather([Path(path) for path in paths])
    file = Path(output) if output is not None else _default_file(material)
    if file.is_dir() or not file.parent.is_dir():
        wrong = "is a folder" if file.is_dir() else f"the folder {file.parent} does not exist"
        raise UserError(f"--output {file}: {wrong}: name a file to write")
    write_atomically(file, render(material).encode())
    return file


def render(material: Material) -> str:
    """The report as HTML."""
    title = ", ".join(path.name or path.resolve().name for path in material.paths)
    made = element("p", f"llamita report of {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}", class_="made")
    sections = (
        ablation_section,
        scaling_section,
        curves_section,
        runs_section,
        differences_section,
        samples_section,
        machine_section,
        commands_section,
    )
    return page(title, [made, tiles(material), *(section(material) for section in sections)])


def _default_file(material: Material) -> Path:
    return (material.paths[0] if len(material.paths) == 1 else Path()) / REPORT_FILE
