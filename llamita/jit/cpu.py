"""CPU model, instruction-set features, and the cores that a process may use."""

import os
import platform
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
IDENTIFYING = "model name", "flags", "CPU implementer", "CPU part", "Features"
"""The lines of /proc/cpuinfo that identify the CPU model, on x86 and on Arm."""


def cpu_model() -> list[str]:
    """The operating system, the architecture, and the CPU model with its features, as far as the OS reports them."""
    lines = _cpuinfo() or (platform.processor(),)
    found = (next((line for line in lines if line.startswith(name)), "") for name in IDENTIFYING)
    return [platform.system(), platform.machine(), *lines[:1], *found]


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction-set extensions by their Linux names, e.g. "avx512_bf16"; empty where /proc/cpuinfo is missing."""
    flags = next((line for line in _cpuinfo() if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def usable_cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpuinfo() -> tuple[str, ...]:
    try:
        return tuple(CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        return ()
