"""Peak FLOP/s of this machine, measured, and model FLOP utilization. Both are printed only; they decide nothing."""

import time

import torch

from llamita.config import ModelConfig
from llamita.runtime.hardware import AUTOCAST, Hardware

LARGEST = {"cpu": 1024, "mps": 4096, "cuda": 8192}
"""Of square matrices: large enough that a product does nothing but multiply."""
SMALLEST = 256
ENOUGH = 0.005  # seconds of a product: a precision that a processor only imitates would take minutes for the largest
ROUNDS = 3


def peak_flops(hardware: Hardware) -> float:
    """FLOP/s of one large matrix product in the precision of the run, at its best.

    The best of a few products, since what else runs can only lengthen one.
    """
    size, largest = SMALLEST, LARGEST[torch.device(hardware.device).type]
    while (seconds := _best_seconds(size, hardware)) < ENOUGH and size < largest:
        size *= 2
    return 2 * size**3 / seconds


def _best_seconds(size: int, hardware: Hardware) -> float:
    x = torch.ones(size, size, dtype=AUTOCAST.get(hardware.precision, torch.float32), device=hardware.device)
    return min(_seconds_of_product(x, hardware) for _ in range(ROUNDS))


def _seconds_of_product(x: torch.Tensor, hardware: Hardware) -> float:
    hardware.wait()
    started = time.perf_counter()
    torch.mm(x, x)
    hardware.wait()
    return time.perf_counter() - started


def flops_per_token(config: ModelConfig, parameters: int) -> int:
    """Floating-point operations of one training step for one token (Chowdhery et al., 2022, appendix B).

    6 for each weight that multiplies (2 forward, 4 backward; looking up a token or a position multiplies nothing, but
    the head does), and 12 · layers · width · context for attention, halved since it is causal.
    """
    rows = (0 if config.tie_embeddings else config.vocab_size) + config.max_seq_len * (config.position == "learned")
    attention = 6 * config.num_layers * config.num_heads * config.head_dim * config.max_seq_len
    return 6 * (parameters - rows * config.hidden_size) + attention


def utilization(flops_per_second: float, peak: float) -> float:
    """Model FLOP utilization (Chowdhery et al., 2022): what the model needs, as a share of what the hardware can do."""
    return flops_per_second / peak
