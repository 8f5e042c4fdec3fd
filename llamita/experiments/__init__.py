"""Experiments: many runs that answer one question. A sweep is a resumable directory of runs."""

from llamita.experiments.plan import Plan, PlannedRun
from llamita.experiments.result import Result
from llamita.experiments.sweep import Sweep

__all__ = ["Plan", "PlannedRun", "Result", "Sweep"]
