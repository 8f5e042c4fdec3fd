"""Training: `loop.py` is the page to read and to change; the other files are what it calls."""

from llamita.planning import Memory, cache_bytes_per_token, count_parameters, training_memory
from llamita.runtime import Hardware, choose_hardware
from llamita.train.checkpoint import load_checkpoint, save_checkpoint
from llamita.train.display import Display
from llamita.train.loading import load_run
from llamita.train.loop import train
from llamita.train.run_directory import RunDirectory, find_checkpoint

__all__ = [
    "Display",
    "Hardware",
    "Memory",
    "RunDirectory",
    "cache_bytes_per_token",
    "choose_hardware",
    "count_parameters",
    "find_checkpoint",
    "load_checkpoint",
    "load_run",
    "save_checkpoint",
    "train",
    "training_memory",
]
