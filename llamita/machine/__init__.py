"""Where and how a step is computed: device, precision, kernels and sizes, chosen for the machine that is there.

`hardware.py` says what `auto` means and applies it to a model; the other files are one choice or measurement each. A
run asks them in `train/run.py` and `train/preparation.py`.
"""

from llamita.machine.hardware import Hardware, choose_hardware
from llamita.machine.memory import Memory, cache_bytes_per_token, count_parameters, training_memory

__all__ = [
    "Hardware",
    "Memory",
    "cache_bytes_per_token",
    "choose_hardware",
    "count_parameters",
    "training_memory",
]
