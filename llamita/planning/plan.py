"""What a run is going to do, in numbers, before it does it."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llamita.config import RunConfig
from llamita.data import Dataset
from llamita.parallel import Processes
from llamita.planning.choices import StepChoices
from llamita.planning.peak import flops_per_token, utilization
from llamita.runtime.hardware import Hardware

COMPILED = {"off": "not compiled", "on": "compiled", "graphs": "compiled, as CUDA graphs"}
MANY, FEW = 5, 1  # further trials of a step that takes less than a second, and of a longer one


@dataclass(frozen=True)
class Plan:
    """A run as it will be, for `lines` to print.

    parameters    by group, as of `Llama.num_parameters`
    peak          FLOP/s of one process, as measured
    seconds       of one update, as measured
    memory        bytes of one process, as measured; NaN where the system does not say
    step          that the run goes on from
    """

    config: RunConfig
    data: Dataset
    hardware: Hardware
    choices: StepChoices
    processes: Processes
    directory: Path
    parameters: Mapping[str, int]
    peak: float
    seconds: float
    memory: float
    step: int = 0

    def lines(self) -> dict[str, str]:
        """The lines of the plan, by their headings."""
        return {
            "run": f"{self.directory}" + (f", going on from step {self.step:,}" if self.step else ""),
            "hardware": self._hardware(),
            "steps": self._steps(),
            "data": self._data(),
            "parameters": self._parameters(),
            "compute": self._compute(),
            "update": self._update(),
            "length": self._length(),
            "expected": self._expected(),
        }

    @property
    def tokens_per_window(self) -> float:
        """Tokens that a window teaches, on average: documents may be shorter than the context."""
        part = self.data.prepared.train.part
        return min(self.config.model.max_seq_len, part.tokens / len(self.data.train))

    @property
    def tokens_per_update(self) -> float:
        """Tokens that an update learns from, on average, over all processes."""
        return self.config.training.sequences_per_update * self.tokens_per_window

    def _hardware(self) -> str:
        processes = f"{self.processes.world_size} processes, each " if self.processes.world_size > 1 else ""
        return f"{processes}{self.hardware}"

    def _steps(self) -> str:
        choices = self.choices
        because = f" ({choices.micro_batch_reason})" if choices.micro_batch_reason else ""
        compiled = f"{COMPILED[choices.compile]} ({choices.compile_reason})"
        return f"micro-batches of {choices.micro_batch_size:,} sequences{because}, {compiled}"

    def _data(self) -> str:
        prepared = self.data.prepared
        return (
            f"{prepared.manifest.source}: {prepared.train.part.tokens:,} tokens to train on, "
            f"{prepared.validation.part.tokens:,} to validate, vocabulary {self.config.model.vocab_size:,}"
        )

    def _parameters(self) -> str:
        parts = (f"{name.replace('_', '-')} {count:,}" for name, count in self.parameters.items() if count)
        return f"{sum(self.parameters.values()):,} ({', '.join(parts)})"

    def _compute(self) -> str:
        total = sum(self.parameters.values())
        tokens = self.config.training.max_steps * self.tokens_per_update
        return (
            f"{flops_per_token(self.config.model, total) / 1e6:,.1f} MFLOP per token, {tokens / total:,.1f} tokens per "
            f"parameter; the peak here is {self.peak / 1e9:,.0f} GFLOP/s"
        )

    def _update(self) -> str:
        training = self.config.training
        return (
            f"{training.batch_size} sequences x {training.grad_accum_steps} accumulated x "
            f"{self.tokens_per_window:,.0f} tokens = {self.tokens_per_update:,.0f} tokens"
        )

    def _length(self) -> str:
        steps = self.config.training.max_steps
        epochs = steps * self.config.training.sequences_per_update / len(self.data.train)
        return f"{steps:,} steps, {steps * self.tokens_per_update:,.0f} tokens, {epochs:.2f} epochs"

    def _expected(self) -> str:
        left = (self.config.training.max_steps - self.step) * self.seconds
        flops = flops_per_token(self.config.model, sum(self.parameters.values()))
        mfu = utilization(flops * self.tokens_per_update / self.seconds, self.peak * self.processes.world_size)
        memory = "" if math.isnan(self.memory) else f"{self.memory / 2**20:,.0f} MiB of memory, "
        return f"about {_duration(left)} of training steps, {memory}MFU {mfu:.0%}"


def warn_of_short_run(config: RunConfig) -> str | None:
    """What to say where a run ends before its learning rate has grown: it learns next to nothing."""
    warmup, steps = config.optimizer.warmup_steps, config.training.max_steps
    if warmup <= steps:
        return None
    return (
        f"warning: {steps:,} steps end before the {warmup:,} of the warmup, and the learning rate grows to "
        f"{steps / warmup:.0%} of what it should be: lower --warmup_steps, or raise --max_steps or --epochs"
    )


def seconds_of_step(trial_step: Callable[[], object], processes: Processes) -> float:
    """Seconds of `trial_step`, which computes an update and leaves the run as it was: the best of a few."""
    # The first one also warms up. All processes have to agree on how many follow: they compute them together.
    short = processes.max(_seconds(trial_step)) < 1
    return min(_seconds(trial_step) for _ in range(MANY if short else FEW))  # what else runs can only lengthen it


def _seconds(trial_step: Callable[[], object]) -> float:
    started = time.perf_counter()
    trial_step()
    return time.perf_counter() - started


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
