"""How many operations a second the machine does in matrix products: what a step is measured against."""

import statistics
import time
from typing import Any

import torch
from torch import Tensor

from llamita.bench.shapes import Task

LARGE = 2048
MOST_TOKENS = 2048  # of one product: more are no faster, and take memory
LEAST_TIMES = 3


class MatrixProducts:
    """Multiplies large matrices x · wᵀ: square ones, and those of the model's feed-forward layer and head."""

    def __init__(self, task: Task):
        torch.set_num_threads(task.threads)
        shape, dtype = task.shape, torch.bfloat16 if task.precision == "bf16" else torch.float32
        rows = min(MOST_TOKENS, shape.tokens)
        sizes = {
            (LARGE, LARGE, LARGE),
            (rows, shape.hidden_size, shape.intermediate_size),
            (rows, shape.intermediate_size, shape.hidden_size),
            (rows, shape.hidden_size, shape.vocab_size),
        }
        self._products = [(torch.randn(n, k, dtype=dtype), torch.randn(m, k, dtype=dtype)) for n, k, m in sizes]
        self._seconds = task.turn / 2  # of each
        self.turn()

    def ready(self) -> dict[str, Any]:
        """Nothing is to be known of them."""
        return {}

    def turn(self) -> dict[str, Any]:
        """Operations a second of the fastest of the products."""
        with torch.inference_mode():
            return {"flops": max(flops(x, weight, self._seconds) for x, weight in self._products)}


def flops(x: Tensor, weight: Tensor, at_least: float) -> float:
    """Operations a second of x (n, k) · weightᵀ (k, m): the middle one of what fills `at_least` seconds."""
    seconds: list[float] = []
    out = torch.empty(len(x), len(weight), dtype=x.dtype)
    while sum(seconds) < at_least or len(seconds) < LEAST_TIMES:
        started = time.perf_counter()
        torch.mm(x, weight.T, out=out)
        seconds.append(time.perf_counter() - started)
    return 2 * out.numel() * x.shape[1] / statistics.median(seconds)
