"""Check and benchmark llamita on a GPU: one command, one report in Markdown and JSON.

    python benchmarks/gpu.py --output gpu-report

Without a GPU (or with --toy) all sections run on the CPU at toy size; checks that need CUDA are reported as skipped.
Exits with 1 if a section fails. docs/benchmarks.md describes the sections.
"""

from collections.abc import Sequence
from pathlib import Path

from common.command import Parser, UsageError, run_command
from gpu_sections.report import MARKDOWN, Report, choose_sections, describe_device, write_report
from gpu_sections.section import Setting

LIMIT = {"cuda": 900.0, "cpu": 120.0}


def parser() -> Parser:
    """The command line."""
    flags = Parser(description="Check and benchmark everything that needs a GPU.")
    add = flags.add_argument
    add("--output", type=Path, default=Path("gpu-report"), help="report folder; default: %(default)s")
    add("--sections", nargs="+", default=[], metavar="NAME",
        help="some of tests, training, attention, throughput, memory, resume; default: all")  # fmt: skip
    add("--nanogpt", type=Path, help="a clone of nanoGPT, to benchmark it too")
    add("--toy", action="store_true", help="toy size on the CPU, even if there is a GPU")
    add("--limit", type=float, help="time limit per section in seconds; default: 900, 120 at toy size")
    return flags


def main(words: Sequence[str] | None = None) -> int:
    """Write the report and print a line per section -> 1 if one failed, else 0. Raises `UsageError`."""
    options = parser().parse(words)
    names = choose_sections(options.sections)
    if options.nanogpt and not (options.nanogpt / "model.py").is_file():
        raise UsageError(f"--nanogpt {options.nanogpt}: model.py not found: give the folder of a clone")
    options.output.mkdir(parents=True, exist_ok=True)
    device, description = describe_device(options.toy)
    report = Report(description)
    setting = Setting(device, folder="", nanogpt=str(options.nanogpt.resolve()) if options.nanogpt else "")
    limit = options.limit or LIMIT[device]
    print(description, flush=True)
    for line in write_report(names, report, setting, options.output, limit):
        print(line, flush=True)
    print(f"\nwritten to {options.output / MARKDOWN}")
    return int(report.failed)


if __name__ == "__main__":
    run_command(main)
