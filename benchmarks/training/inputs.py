"""The inputs shared by all candidates: initial weights, tokens and batch order, as files in a folder.

A separate process writes them, so that no candidate ever holds a second copy of the weights.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from training.shapes import Task

STEPS = 64
"""The number of distinct batches; then they repeat."""


class Inputs:
    """Writes the files when it is constructed; there is nothing to measure."""

    def __init__(self, task: Task):
        from safetensors.torch import save_file

        from llamita.data import BatchOrder
        from llamita.model import Llama

        shape = task.shape
        order = BatchOrder(STEPS * shape.batch_size, shape.batch_size, seed=0)
        np.save(task.folder / "order.npy", np.stack([order.indices(step) for step in range(STEPS)]))
        ids = np.random.default_rng(0).integers(shape.vocab_size, size=STEPS * shape.tokens + 1)
        np.save(task.folder / "tokens.npy", ids.astype(np.uint16 if shape.vocab_size <= 1 << 16 else np.uint32))
        # Parameters, not the state dict, where tied weights would appear twice.
        save_file(dict(Llama(shape.model_config()).named_parameters()), task.folder / "weights.safetensors")

    def ready(self) -> dict[str, Any]:
        """No facts to report."""
        return {}


def read_order(folder: Path) -> np.ndarray:
    """(steps, batch) window indices."""
    return np.lib.format.open_memmap(folder / "order.npy", mode="r")


def read_tokens(folder: Path) -> np.ndarray:
    """(tokens,) ids."""
    return np.lib.format.open_memmap(folder / "tokens.npy", mode="r")


@torch.no_grad()
def load_weights(model: nn.Module, folder: Path) -> None:
    """Load the parameters one by one: a second copy of all would count as the candidate's memory."""
    from safetensors import safe_open

    with safe_open(folder / "weights.safetensors", framework="pt") as file:
        named = dict(model.named_parameters())
        if set(file.keys()) != set(named):
            raise AssertionError(f"the parameters differ: {sorted(set(file.keys()) ^ set(named))}")
        for name, parameter in named.items():
            parameter.copy_(file.get_tensor(name))
