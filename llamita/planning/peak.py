"""Measured peak FLOP/s of this machine, and model FLOP utilization. Only printed: no choice depends on them."""

import time
from functools import cache

import torch

from llamita.config import ModelConfig
from llamita.runtime.hardware import AUTOCAST, Hardware

LARGEST = {"cpu": 1024, "mps": 4096, "cuda": 8192}
"""Size of square matrices by device: large enough for a matrix product to be compute-bound."""
SMALLEST = 256
ENOUGH = 0.005  # seconds per product: in an emulated precision, the largest would take minutes
ROUNDS = 3
LONG_ENOUGH = 0.1  # seconds of products: another program may slow down several in a row


def peak_flops(hardware: Hardware) -> float:
    """Peak FLOP/s of a large matrix product in the precision of the run; measured once in a process.

    The best of many products, since other programs can only slow one down.
    """
    return _measured(Hardware(hardware.device, hardware.precision, torch.get_num_threads()))


@cache
def _measured(hardware: Hardware) -> float:
    size, largest = SMALLEST, LARGEST[torch.device(hardware.device).type]
    while size < largest and _best_seconds(size, hardware, 0) < ENOUGH:
        size *= 2
    return 2 * size**3 / _best_seconds(size, hardware, LONG_ENOUGH)


def _best_seconds(size: int, hardware: Hardware, long_enough: float) -> float:
    """The fastest of at least `ROUNDS` products, which take at least `long_enough` seconds together."""
    x = torch.ones(size, size, dtype=AUTOCAST.get(hardware.precision, torch.float32), device=hardware.device)
    end, seconds = time.perf_counter() + long_enough, []
    while len(seconds) < ROUNDS or time.perf_counter() < end:
        seconds.append(_seconds_of_product(x, hardware))
    return min(seconds)


def _seconds_of_product(x: torch.Tensor, hardware: Hardware) -> float:
    hardware.wait()
    started = time.perf_counter()
    torch.mm(x, x)
    hardware.wait()
    return time.perf_counter() - started


def flops_per_token(config: ModelConfig, parameters: int) -> int:
    """Floating-point operations of training per token (Chowdhery et al., 2022, appendix B).

    6 per weight of a matrix product (2 forward, 4 backward; the head counts, embedding lookups do not), and
    12 · layers · hidden_size · context for attention, halved because it is causal.
    """
    rows = (0 if config.tie_embeddings else config.vocab_size) + config.max_seq_len * (config.position == "learned")
    attention = 6 * config.num_layers * config.num_heads * config.head_dim * config.max_seq_len
    return 6 * (parameters - rows * config.hidden_size) + attention


def utilization(flops_per_second: float, peak: float) -> float:
    """Model FLOP utilization (Chowdhery et al., 2022): the FLOP/s of the model over the peak of the hardware."""
    return flops_per_second / peak
