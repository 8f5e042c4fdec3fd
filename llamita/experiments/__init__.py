"""Experiments: many runs that answer one question. A sweep is a resumable directory of runs; ablations are sweeps."""

from llamita.experiments.ablate import Ablation
from llamita.experiments.plan import Plan, PlannedRun
from llamita.experiments.result import Result
from llamita.experiments.statistics import Difference, paired_difference
from llamita.experiments.sweep import Sweep

__all__ = ["Ablation", "Difference", "Plan", "PlannedRun", "Result", "Sweep", "paired_difference"]
