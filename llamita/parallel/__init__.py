"""Processes and devices, applied to a model from outside."""

from llamita.parallel.processes import Processes, processes_from_environment

__all__ = ["Processes", "processes_from_environment"]
