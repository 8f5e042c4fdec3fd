"""Whether to use `torch.compile`: only if the run is long enough to win back the time of compilation."""

import math

import torch

from llamita.config import RunConfig
from llamita.errors import UserError
from llamita.planning.memory import count_parameters
from llamita.planning.peak import flops_per_token
from llamita.runtime.compiling import Kind, compile_problem
from llamita.runtime.hardware import Hardware

NOMINAL_FLOPS = {"cpu": 50e9, "mps": 2e12, "cuda": 50e12}
"""Typical FLOP/s of a training step on this kind of device. A constant, since compiled steps round differently: with a
measured speed, the same command would compile on one day and not on the next."""
PAYS_AFTER = {"cpu": 600, "mps": 600, "cuda": 180}
"""Nominal seconds of training from which on compilation pays off. On two CPU cores it takes 20 s and saves a tenth
of each step; on a GPU it takes longer and saves more (an estimate, not measured)."""


def choose_compile(
    config: RunConfig, hardware: Hardware, world_size: int = 1, known: Kind | None = None
) -> tuple[Kind, str]:
    """How to compile, and why. Raises `UserError` if the user requested it, but it is impossible here."""
    requested, problem = config.run.compile, compile_problem(hardware.device)
    if requested in ("on", "graphs") and problem:
        raise UserError(f"--compile {requested}: {problem}; use --compile auto or off")
    if requested != "auto":
        return requested, "as requested"
    if known:
        return known, "as when the run began"
    if hardware.computes_natively:
        return "off", "not needed with fused kernels"
    if problem:
        return "off", problem
    device = torch.device(hardware.device).type
    seconds, length = config.training.budget, f"{config.training.minutes} minutes"
    if math.isinf(seconds):
        seconds = expected_flops(config) / world_size / NOMINAL_FLOPS[device]
        length = f"{expected_flops(config):.1e} FLOP"
    if seconds < PAYS_AFTER[device]:
        return "off", f"{length}, too short a run to pay off"
    return "on", f"{length}, long enough to pay off"


def expected_flops(config: RunConfig) -> float:
    """Floating-point operations of a run of max_steps, if every window fills the context."""
    tokens = config.training.max_steps * config.training.sequences_per_update * config.model.max_seq_len
    return float(tokens) * flops_per_token(config.model, sum(count_parameters(config.model).values()))
