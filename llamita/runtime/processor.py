"""What the processor is called that computes: a run repeats another's choices only on the same kind."""

import platform
import subprocess
import sys
from pathlib import Path

import torch


def processor_name(device: str) -> str:
    """The name of a GPU ("NVIDIA H100 80GB HBM3"), or else of the CPU; empty where `device` is not here."""
    if not device.startswith("cuda"):
        return cpu_name()
    try:
        return torch.cuda.get_device_name(device)
    except (RuntimeError, AssertionError):  # no such GPU, no driver, or a torch without CUDA
        return ""


def cpu_name() -> str:
    """What the CPU says it is, e.g. "AMD EPYC 9B14"; where it does not say, the kind of machine, e.g. "aarch64"."""
    return _of_linux() or _of_mac() or platform.processor() or platform.machine()


def _of_linux() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _of_mac() -> str:
    if sys.platform != "darwin":
        return ""
    told = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
    return told.stdout.strip()
