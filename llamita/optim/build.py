"""Build a run's optimizer and its parameter groups."""

from typing import Any

from torch import nn

from llamita.config import OptimizerConfig
from llamita.optim.adamw import AdamW
from llamita.optim.base import Optimizer


def build_optimizer(options: OptimizerConfig, model: nn.Module) -> Optimizer:
    """The optimizer described by `options`, over all parameters of `model`. It has no state before the first step."""
    groups = decay_groups(model, options.weight_decay)
    return AdamW(groups, options.learning_rate, (options.beta1, options.beta2), options.adam_eps)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: matrices, with weight decay, and gains and biases, without."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
