"""Total and free memory of this machine, and the peak memory of this process."""

import ctypes
import math
import os
import sys
from pathlib import Path

import torch

from llamita.config import RunConfig
from llamita.errors import UserError
from llamita.planning.memory import count_parameters, optimizer_state_bytes

CONTROL_GROUP = Path("/sys/fs/cgroup")
USABLE = 0.9  # of the total: the rest is for the program itself and the system


def require_memory_for_weights(config: RunConfig, device: str, processes: int = 1) -> None:
    """Raise `UserError` if weights, gradients and optimizer state alone exceed `memory_limit`. Allocates nothing."""
    parameters, limit = sum(count_parameters(config.model).values()), memory_limit(device, processes)
    needed = 8 * parameters + optimizer_state_bytes(config)  # weights and gradients are fp32
    if needed > limit:
        raise UserError(
            f"{parameters:,} parameters need {needed / 1e9:,.1f} GB for weights, gradients and optimizer state, "
            f"and a process may use {limit / 1e9:,.1f} GB here: choose a smaller model"
        )


def memory_limit(device: str, processes: int = 1) -> float:
    """Bytes that one process may use: a fixed share of its GPU's memory, or of its part of the machine's.

    `processes`: how many train on this machine. The limit depends only on the machine, not on its load, so that the
    same command always makes the same choices.
    """
    if device.startswith("cuda"):
        return USABLE * torch.cuda.get_device_properties(device).total_memory  # each process has a GPU of its own
    return USABLE * total_memory() / processes


def total_memory() -> float:
    """Bytes of memory of this machine, or of the container; infinity if the system does not tell."""
    return min(_physical_memory(), _control_group("memory.max"))


def free_memory(device: str) -> float:
    """Bytes that this process could allocate now without swapping; infinity if the system does not tell."""
    if device.startswith("cuda"):
        return float(torch.cuda.mem_get_info(device)[0])
    return min(_free_of_the_machine(), _control_group("memory.max") - _control_group("memory.current", unknown=0.0))


def peak_memory(device: str) -> float:
    """Peak bytes of this process: allocated on a GPU, else resident; NaN if unknown, as on Windows."""
    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _physical_memory() -> float:
    if sys.platform == "win32":
        return _windows_memory()
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def _windows_memory() -> float:
    """Total physical memory, as of `GlobalMemoryStatusEx`: a struct of two 32-bit and seven 64-bit numbers."""

    class MemoryStatus(ctypes.Structure):
        _fields_ = [("length", ctypes.c_uint32), ("load", ctypes.c_uint32), ("total", ctypes.c_uint64),
                    ("others", ctypes.c_uint64 * 6)]  # fmt: skip

    status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
    found = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return float(status.total) if found else math.inf


def _free_of_the_machine() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf


def _control_group(name: str, unknown: float = math.inf) -> float:
    """A limit or a count of the container that this process is in (Linux, cgroup v2), in bytes."""
    try:
        text = (CONTROL_GROUP / name).read_text(encoding="utf-8").strip()
        return math.inf if text == "max" else float(text)
    except (OSError, ValueError):
        return unknown
