"""`llamita report`."""

from pathlib import Path


def report(*paths: Path, output: Path | None = None) -> None:
    """Write a report of runs and sweeps: one HTML file with curves, settings that differ, samples and commands.

    Parameters
    ----------
    paths: Path
        Directories of runs or sweeps; default: the newest run in runs/.
    output: Path
        The file to write; default: report.html in the run or sweep, or in the current folder if there are several.
    """
    from llamita.experiments.report import write_report
    from llamita.train.run_directory import newest_run

    print(f"report          {write_report(paths or [newest_run()], output)}")
