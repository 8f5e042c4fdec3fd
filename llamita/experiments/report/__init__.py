"""Reports: one self-contained HTML file about runs and sweeps. `writing.py` lists its sections."""

from llamita.experiments.report.writing import write_report

__all__ = ["write_report"]
