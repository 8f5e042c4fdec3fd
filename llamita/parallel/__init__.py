"""Processes and devices, applied to a model from outside."""

from llamita.parallel.launch import launch, take_part
from llamita.parallel.processes import Processes, is_main_process, processes_from_environment, started_processes

__all__ = ["Processes", "is_main_process", "launch", "processes_from_environment", "started_processes", "take_part"]
