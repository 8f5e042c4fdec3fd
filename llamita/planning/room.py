"""How much memory there is, and whether weights, gradients and the optimizer's state have room in it."""

import math
from pathlib import Path

import torch

from llamita.config import RunConfig
from llamita.errors import UserError
from llamita.planning.memory import count_parameters, optimizer_state_bytes

CONTROL_GROUP = Path("/sys/fs/cgroup")


def require_room_for_weights(config: RunConfig, device: str) -> None:
    """Raise `UserError` where not even what every step needs has room, before anything of it is taken."""
    parameters, free = sum(count_parameters(config.model).values()), available_memory(device)
    needed = 8 * parameters + optimizer_state_bytes(config)  # weights and gradients are fp32
    if needed > free:
        raise UserError(
            f"{parameters:,} parameters need {needed / 1e9:,.1f} GB for weights, gradients and optimizer state, "
            f"and {free / 1e9:,.1f} GB are free: choose a smaller model"
        )


def available_memory(device: str) -> float:
    """Bytes that this process could take without pushing out others; infinity where the system does not say."""
    if device.startswith("cuda"):
        return float(torch.cuda.mem_get_info(device)[0])
    return min(_free_of_the_machine(), _left_to_the_control_group())


def _free_of_the_machine() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf


def _left_to_the_control_group() -> float:
    """Bytes that a container may still take."""
    try:
        most, used = ((CONTROL_GROUP / f"memory.{name}").read_text(encoding="utf-8") for name in ("max", "current"))
        return math.inf if most.strip() == "max" else float(most) - float(used)
    except (OSError, ValueError):
        return math.inf
