"""The measured peak FLOP/s of matrix products, the denominator of MFU."""

import statistics
import time
from typing import Any

import torch
from torch import Tensor

from training.shapes import Task

LARGE = {"cpu": 2048, "cuda": 8192}
MAX_ROWS = {"cpu": 2048, "cuda": 16384}  # larger products are no faster and need memory
MIN_REPEATS = 3
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class MatmulPeak:
    """Matrix products x · wᵀ: large square ones, and those of the model's feed-forward layer and head."""

    def __init__(self, task: Task):
        torch.set_num_threads(task.threads)
        shape, kind = task.shape, torch.device(task.device).type
        rows, large = min(MAX_ROWS[kind], shape.tokens), LARGE[kind]
        sizes = {
            (large, large, large),
            (rows, shape.hidden_size, shape.intermediate_size),
            (rows, shape.intermediate_size, shape.hidden_size),
            (rows, shape.hidden_size, shape.vocab_size),
        }
        options: dict[str, Any] = {"dtype": DTYPES.get(task.precision, torch.float32), "device": task.device}
        self._products = [(torch.randn(n, k, **options), torch.randn(m, k, **options)) for n, k, m in sizes]
        self._seconds = task.min_seconds / 2  # of each
        self.measure()

    def ready(self) -> dict[str, Any]:
        """No facts to report."""
        return {}

    def measure(self) -> dict[str, Any]:
        """FLOP/s of the fastest product."""
        with torch.inference_mode():
            return {"flops": max(flops(x, weight, self._seconds) for x, weight in self._products)}


def flops(x: Tensor, weight: Tensor, min_seconds: float) -> float:
    """FLOP/s of x (n, k) · weightᵀ (k, m): the median over at least `min_seconds`."""
    seconds: list[float] = []
    out = torch.empty(len(x), len(weight), dtype=x.dtype, device=x.device)
    while sum(seconds) < min_seconds or len(seconds) < MIN_REPEATS:
        synchronize(x.device)
        started = time.perf_counter()
        torch.mm(x, weight.T, out=out)
        synchronize(x.device)
        seconds.append(time.perf_counter() - started)
    return 2 * out.numel() * x.shape[1] / statistics.median(seconds)


def synchronize(device: torch.device | str) -> None:
    """Wait for the GPU, before reading a clock."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
