"""Whether a run is compiled: it then waits before it is faster, which has to pay."""

import torch

from llamita.config import RunConfig
from llamita.errors import UserError
from llamita.planning.memory import count_parameters
from llamita.planning.peak import flops_per_token
from llamita.runtime.compiling import Kind, compile_problem
from llamita.runtime.hardware import Hardware

NOMINAL_FLOPS = {"cpu": 50e9, "mps": 2e12, "cuda": 50e12}
"""FLOP/s that a training step typically reaches on a device of this kind. A constant, since compiled steps round
differently: by a measured speed, the same command would compile on one day and not on another."""
PAYS_AFTER = {"cpu": 600, "mps": 600, "cuda": 180}
"""Nominal seconds of training that win back the wait for the compiler. On two CPU cores it takes 20 s and saves a tenth
of each step; a GPU saves more and waits longer (an estimate, not measured)."""


def choose_compile(
    config: RunConfig, hardware: Hardware, world_size: int = 1, known: Kind | None = None
) -> tuple[Kind, str]:
    """How to compile, and why. Raises `UserError` where it is asked for, but cannot be done."""
    wish, problem = config.run.compile, compile_problem(hardware.device)
    if wish in ("on", "graphs") and problem:
        raise UserError(f"--compile {wish}: {problem}; use --compile auto or off")
    if wish != "auto":
        return wish, "asked for"
    if known:
        return known, "as when the run began"
    if hardware.computes_natively:
        return "off", "the fused kernels need no compiler"
    if problem:
        return "off", problem
    device = torch.device(hardware.device).type
    seconds = expected_flops(config) / world_size / NOMINAL_FLOPS[device]
    if seconds < PAYS_AFTER[device]:
        return "off", f"{expected_flops(config):.1e} FLOP are too few to win back the wait"
    return "on", f"{expected_flops(config):.1e} FLOP are enough to win back the wait"


def expected_flops(config: RunConfig) -> float:
    """Floating-point operations of the whole run, where every window is as long as the context."""
    tokens = config.training.max_steps * config.training.sequences_per_update * config.model.max_seq_len
    return float(tokens) * flops_per_token(config.model, sum(count_parameters(config.model).values()))
