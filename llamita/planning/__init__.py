"""What is found out before step 1: memory, peak FLOP/s, and whether a run fits."""

from llamita.planning.memory import Memory, cache_bytes_per_token, count_parameters, training_memory

__all__ = ["Memory", "cache_bytes_per_token", "count_parameters", "training_memory"]
