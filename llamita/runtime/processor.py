"""The name of the processor: choices of `auto` on one kind of processor do not apply to another."""

import platform
import subprocess
import sys

import torch

from llamita.jit.cpu import cpu_model


def processor_name(device: str) -> str:
    """The GPU ("NVIDIA H100 80GB HBM3"), else the CPU and its vector width ("AMD EPYC, AVX512"); "" if missing."""
    if not device.startswith("cuda"):
        return f"{_cpu_name()}, {torch.backends.cpu.get_cpu_capability()}"
    try:
        return torch.cuda.get_device_name(device)
    except (RuntimeError, AssertionError):  # no such GPU, no driver, or a torch without CUDA
        return ""


def _cpu_name() -> str:
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        return result.stdout.strip() or platform.machine()
    models = (line.partition(":")[2].strip() for line in cpu_model() if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()
