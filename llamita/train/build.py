"""A run in memory: model, optimizer and loss scaling, built from a resolved configuration."""

import math
from dataclasses import dataclass, field
from functools import cached_property

from torch import nn

from llamita.config import RunConfig
from llamita.data import BatchOrder, Dataset
from llamita.model import Llama
from llamita.optim import Optimizer, Scaling, build_optimizer
from llamita.parallel import Processes
from llamita.planning.choices import StepChoices
from llamita.planning.intervals import Intervals, choose_intervals
from llamita.planning.length import Length
from llamita.planning.peak import flops_per_token, utilization
from llamita.runtime.compiling import Compiled
from llamita.runtime.hardware import Hardware
from llamita.train.clocks import RunClock
from llamita.train.display import Display
from llamita.train.run_directory import RunDirectory
from llamita.train.tracking import Tracking


@dataclass
class State:
    """What changes during training, besides weights and optimizer.

    Step, tokens and length are saved with each checkpoint. Only the main process knows the best, which it reads from
    the log.
    """

    step: int = 0
    tokens: int = 0
    length: Length = field(default_factory=Length)
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
    """Computes the loss of a step: `model`, or the same compiled."""
    state: State
    clock: RunClock = field(default_factory=RunClock)
    replayed: Length = field(default_factory=Length)
    """For a repeated run with a budget of minutes: the plans of the run that it repeats."""
    peak: float = math.nan
    """Measured peak FLOP/s of one process, the denominator of `utilization`."""
    tracking: Tracking = field(default_factory=Tracking)
    """Mirrors the metrics, if `track` asks for it."""
    epochs_requested: bool = False
    """Whether the user chose the number of epochs."""

    @cached_property
    def num_parameters(self) -> int:
        """Number of parameters of the model."""
        return sum(self.model.num_parameters().values())

    def utilization(self, tokens_per_second: float) -> float:
        """Model FLOP utilization at this throughput of all processes together."""
        flops = flops_per_token(self.config.model, self.num_parameters) * tokens_per_second
        return utilization(flops, self.peak * self.processes.world_size)

    @cached_property
    def intervals(self) -> Intervals:
        """How often to log, evaluate, sample and save."""
        return choose_intervals(self.config.run, self.state.length.first)

    @property
    def max_steps(self) -> int:
        """How many steps the whole run has, as far as is known now."""
        return self.state.length.max_steps

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done."""
        return bool(self.state.length.plans) and self.state.step >= self.max_steps

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
    model_class: type[Llama] = Llama,
) -> Run:
    """The run at step 0: initial weights, an optimizer without state, no checkpoint loaded."""
    model = hardware.apply(model_class(config.model, seed=config.training.seed))
    optimizer = build_optimizer(config.optimizer, model)
    step_model = _compiled(model, choices) if choices.compile != "off" else model
    length = Length.of([(0, steps)] if (steps := config.training.max_steps) else [])
    parts = model, optimizer, hardware.scaling(), step_model
    return Run(config, processes, hardware, data, directory, display, choices, *parts, State(length=length))


def _compiled(model: Llama, choices: StepChoices) -> nn.Module:
    graphs = choices.compile == "graphs"
    return Compiled(model, choices.micro_batch_size, model.config.max_seq_len, graphs=graphs)
