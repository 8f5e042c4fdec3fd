"""What processor this is: which instructions it has, and what tells its model from others."""

import platform
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
IDENTIFYING = "model name", "flags", "CPU implementer", "CPU part", "Features"
"""The lines of /proc/cpuinfo that tell models of Intel and AMD, and of Arm, from others."""


def cpu_model() -> list[str]:
    """The operating system, the architecture, and the model with its features, as far as the system names them."""
    lines = _cpuinfo() or (platform.processor(),)
    found = (next((line for line in lines if line.startswith(name)), "") for name in IDENTIFYING)
    return [platform.system(), platform.machine(), *lines[:1], *found]


@cache
def cpu_flags() -> frozenset[str]:
    """The processor's extensions by their names in Linux, as "avx512_bf16"; empty where the system names none."""
    flags = next((line for line in _cpuinfo() if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def _cpuinfo() -> tuple[str, ...]:
    try:
        return tuple(CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        return ()
