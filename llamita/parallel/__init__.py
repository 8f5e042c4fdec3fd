"""The processes that train one model together, and DDP, applied to a model from outside."""

from llamita.parallel.launch import launch, run_worker
from llamita.parallel.processes import Processes, is_main_process, processes_from_environment, started_processes

__all__ = ["Processes", "is_main_process", "launch", "processes_from_environment", "run_worker", "started_processes"]
