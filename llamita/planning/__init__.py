"""Before step 1: the memory estimate, micro-batches and compilation, peak FLOP/s, and the printed plan."""

from llamita.planning.memory import Memory, cache_bytes_per_token, count_parameters, training_memory

__all__ = ["Memory", "cache_bytes_per_token", "count_parameters", "training_memory"]
