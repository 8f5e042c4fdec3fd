"""A run in memory: model, optimizer and loss scaling, made from a resolved configuration."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from llamita.config import RunConfig
from llamita.data import BatchOrder, Dataset
from llamita.model import Llama
from llamita.optim import AdamW, Scaling, decay_groups
from llamita.parallel import Processes
from llamita.runtime.hardware import Hardware
from llamita.train.display import Display
from llamita.train.run_directory import RunDirectory


@dataclass
class State:
    """All that changes as a run goes on, besides weights and optimizer. It is saved with each checkpoint."""

    step: int = 0
    tokens: int = 0
    best_val_loss: float = math.inf
    best_step: int = -1


@dataclass
class Run:
    """Everything that the training page works with."""

    config: RunConfig
    processes: Processes
    hardware: Hardware
    data: Dataset
    directory: RunDirectory
    display: Display
    facts_before: dict[str, Any]
    """What the run wrote down when it began, where it goes on; else nothing."""
    known: dict[str, Any]
    """What is to be chosen again where a setting is `auto`: `facts_before`, else facts of the run that is repeated."""
    model: Llama
    optimizer: AdamW
    scaling: Scaling
    step_model: nn.Module
    """What computes the loss of a step: `model`, or the same compiled."""
    micro_batch_size: int
    """Sequences that a process computes at once."""
    state: State
    peak: float = math.nan
    """Peak FLOP/s, as measured."""

    @cached_property
    def num_parameters(self) -> int:
        """Of the model."""
        return sum(self.model.num_parameters().values())

    @property
    def order(self) -> BatchOrder:
        """Which windows each update sees."""
        return BatchOrder(len(self.data.train), self.config.training.sequences_per_update, self.config.training.seed)


def build_run(
    config: RunConfig,
    processes: Processes,
    hardware: Hardware,
    data: Dataset,
    directory: RunDirectory,
    display: Display,
    before: dict[str, Any],
    known: dict[str, Any],
) -> Run:
    """The run at step 0: first weights, an optimizer without state, nothing loaded."""
    model = hardware.apply(Llama(config.model, seed=config.training.seed))
    options = config.optimizer
    groups = decay_groups(model, options.weight_decay)
    optimizer = AdamW(groups, options.learning_rate, (options.beta1, options.beta2), options.adam_eps)
    rows = math.ceil(config.training.batch_size / processes.world_size)
    made = model, optimizer, hardware.scaling()
    return Run(config, processes, hardware, data, directory, display, before, known, *made, model, rows, State())
