"""The number of CPU threads of a process: a function of the model's shape and the CPU affinity, never of the load."""

from llamita.config import ModelConfig

WORK_PER_THREAD = 1 << 19
"""Multiply-adds of one projection of a full context below which another thread costs more than it saves."""


def choose_threads(model: ModelConfig | None, cores: int) -> int:
    """As many of `cores` as the matrix products of the model can use; all of them if the model is unknown."""
    if model is None:
        return max(1, cores)
    work = model.max_seq_len * model.hidden_size * model.hidden_size
    return max(1, min(cores, work // WORK_PER_THREAD))
