"""A run in memory: model, optimizer and loss scaling, made from a resolved configuration."""

import math
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from llamita.config import RunConfig
from llamita.data import BatchOrder, Dataset
from llamita.model import Llama
from llamita.optim import Optimizer, Scaling, build_optimizer
from llamita.parallel import Processes
from llamita.planning.choices import StepChoices
from llamita.planning.peak import flops_per_token, utilization
from llamita.runtime.compiling import Compiled
from llamita.runtime.hardware import Hardware
from llamita.train.display import Display
from llamita.train.run_directory import RunDirectory


@dataclass
class State:
    """All that changes as a run goes on, besides weights and optimizer.

    Step and tokens are saved with each checkpoint. The best is known from the log, and to the main process only.
    """

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
    choices: StepChoices
    model: Llama
    optimizer: Optimizer
    scaling: Scaling
    step_model: nn.Module
    """What computes the loss of a step: `model`, or the same compiled."""
    state: State
    peak: float = math.nan
    """FLOP/s of one process, as measured: the yardstick of `utilization`."""

    @cached_property
    def num_parameters(self) -> int:
        """Of the model."""
        return sum(self.model.num_parameters().values())

    def utilization(self, tokens_per_second: float) -> float:
        """Model FLOP utilization at this speed of all processes together."""
        flops = flops_per_token(self.config.model, self.num_parameters) * tokens_per_second
        return utilization(flops, self.peak * self.processes.world_size)

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
    choices: StepChoices,
) -> Run:
    """The run at step 0: first weights, an optimizer without state, nothing loaded."""
    model = hardware.apply(Llama(config.model, seed=config.training.seed))
    optimizer = build_optimizer(config.optimizer, model)
    step_model = _compiled(model, choices) if choices.compile != "off" else model
    made = model, optimizer, hardware.scaling(), step_model
    return Run(config, processes, hardware, data, directory, display, choices, *made, State())


def _compiled(model: Llama, choices: StepChoices) -> nn.Module:
    graphs = choices.compile == "graphs"
    return Compiled(model, choices.micro_batch_size, model.config.max_seq_len, graphs=graphs)
