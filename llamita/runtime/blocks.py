"""How much the native kernels take at once: what a short trial on tensors of the run's shape finds to be fastest."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from llamita.config import ExecutionConfig, ModelConfig
from llamita.ops.cpu import workspace
from llamita.ops.cpu.attention import blocked_attention, sizes_of_blocks
from llamita.ops.cpu.cross_entropy import linear_cross_entropy, tokens_of_slice
from llamita.parallel import Processes
from llamita.runtime.hardware import Blocks, Hardware

TOKENS_TRIED = 1024, 2048
MOST_LOGITS = 1 << 24  # of a slice that is tried: 32 MB
TOKENS_OF_TRIAL = 4096
ROUNDS = 3
CLEARLY = 0.05  # faster by this share than what the kernels take by themselves


def choose_blocks(
    hardware: Hardware,
    config: ExecutionConfig,
    model: ModelConfig,
    batch_size: int,
    known: Mapping[str, Any] | None = None,
    processes: Processes = Processes(),  # noqa: B008  (frozen)
) -> Hardware:
    """`hardware` with the blocks that are asked for, else those `known` of when the run began, else the fastest.

    All processes choose the same, for they must go on with the same.
    """
    if not hardware.computes_natively:
        return hardware
    torch.set_num_threads(hardware.threads)
    rows = max(1, min(batch_size, TOKENS_OF_TRIAL // model.max_seq_len))
    sizes, reasons = {}, dict(hardware.reasons)
    for name, trial in {"attention_block": _try_attention, "head_block": _try_head}.items():
        asked = getattr(config, name, "auto")  # no setting any more
        if asked == "auto" and known and known.get(name):
            sizes[name], reasons[name] = known[name], "as when the run began"
        elif asked == "auto":
            sizes[name], reasons[name] = _fastest(trial(model, rows), processes)
        else:
            sizes[name], reasons[name] = asked, "asked for"
    workspace.clear()  # what is chosen may need less
    return dataclasses.replace(hardware, blocks=Blocks(**sizes), reasons=reasons)


def _try_attention(model: ModelConfig, rows: int) -> dict[int, float]:
    counts = model.num_heads, model.num_kv_heads, model.num_kv_heads
    q, k, v = (_drawn(rows, count, model.max_seq_len, model.head_dim) for count in counts)
    return _seconds(sizes_of_blocks(q, k, v), lambda size: blocked_attention(q, k, v, size))


def _try_head(model: ModelConfig, rows: int) -> dict[int, float]:
    tokens = rows * model.max_seq_len
    hidden, targets = _drawn(tokens, model.hidden_size), torch.zeros(tokens, dtype=torch.int64)
    weight = torch.zeros(model.vocab_size, model.hidden_size, requires_grad=True)
    usual = tokens_of_slice(model.vocab_size)
    larger = [size for size in TOKENS_TRIED if usual < size <= min(tokens, MOST_LOGITS // model.vocab_size)]
    return _seconds([usual, *larger], lambda size: linear_cross_entropy(hidden, weight, targets, size))


def _drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(torch.bfloat16).requires_grad_()


def _seconds(sizes: Iterable[int], forward: Callable[[int], Tensor]) -> dict[int, float]:
    """Of each size, forward and backward: the middle one of some rounds, in turns. A single one is not tried."""
    taken: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(ROUNDS if len(taken) > 1 else 0):
        for size, seconds in taken.items():
            started = time.perf_counter()
            forward(size).sum().backward()  # of one number: for a gradient by more, torch imports sympy, 34 MB
            seconds.append(time.perf_counter() - started)
    return {size: statistics.median(seconds or [0.0]) for size, seconds in taken.items()}


def _fastest(seconds: dict[int, float], processes: Processes) -> tuple[int, str]:
    """The first, which is the usual one, unless another is clearly faster for the slowest process; and why."""
    seconds = {size: processes.max(value) for size, value in seconds.items()}
    usual, best = next(iter(seconds)), min(seconds, key=lambda size: seconds[size])
    size = best if seconds[best] < (1 - CLEARLY) * seconds[usual] else usual
    if len(seconds) == 1:
        return size, "more do not pay"
    return size, "ms on trial: " + ", ".join(f"{size:,}: {1e3 * value:,.1f}" for size, value in seconds.items())
