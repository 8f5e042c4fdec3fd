"""How many CPU threads a process computes with: a function of the model's shape and the CPU affinity, never of load."""

import os

from llamita.config import ModelConfig

WORK_PER_THREAD = 1 << 19
"""Multiply-adds of one projection of a full context, below which another thread costs more than it saves."""


def choose_threads(model: ModelConfig | None, cores: int) -> int:
    """As many of `cores` as the matrix products of the model keep busy; all of them where the model is not known."""
    if model is None:
        return max(1, cores)
    work = model.max_seq_len * model.hidden_size * model.hidden_size
    return max(1, min(cores, work // WORK_PER_THREAD))


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
