"""The plan of a run: what it will do, printed before the first step."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llamita.config import OptimizerConfig, RunConfig
from llamita.config.size import explain_shape
from llamita.data import Dataset
from llamita.parallel import Processes
from llamita.planning.choices import StepChoices
from llamita.planning.intervals import Intervals
from llamita.planning.peak import flops_per_token, utilization
from llamita.runtime.hardware import Hardware

COMPILED = {"off": "not compiled", "on": "compiled", "graphs": "compiled, with CUDA graphs"}
MANY, FEW = 5, 1  # more trials of a step that takes less than a second, and of a longer one
MANY_EPOCHS = 4
"""Up to about four epochs, repeated text is nearly as good as new (Muennighoff et al., 2023)."""


@dataclass(frozen=True)
class Plan:
    """What a run will do; `lines` are printed.

    parameters    by group, as in `Llama.num_parameters`
    peak          measured peak FLOP/s of one process
    seconds       measured time of one update
    max_steps     updates in the whole run; with a budget of minutes, as planned
    prepared      seconds before step 1 so far, which a budget does not include
    memory        measured peak bytes of one process; NaN where the system does not tell
    step          the step that the run resumes from; 0 for a new run
    """

    config: RunConfig
    data: Dataset
    hardware: Hardware
    choices: StepChoices
    intervals: Intervals
    processes: Processes
    directory: Path
    parameters: Mapping[str, int]
    peak: float
    seconds: float
    memory: float
    max_steps: int
    prepared: float
    step: int = 0

    def lines(self) -> dict[str, str]:
        """Heading -> text, in the order in which they are printed."""
        lines = {
            "run": f"{self.directory}" + (f", resuming at step {self.step:,}" if self.step else ""),
            "hardware": self._hardware(),
            "steps": self._steps(),
            "data": self._data(),
            "parameters": self._parameters(),
            "shape": explain_shape(vars(self.config.model)),
            "compute": self._compute(),
            "update": self._update(),
            "optimizer": self._optimizer(),
            "length": self._length(),
            "not counted": self._not_counted(),
            "intervals": str(self.intervals),
            "expected": self._expected(),
        }
        return {heading: text for heading, text in lines.items() if text}

    @property
    def tokens_per_window(self) -> float:
        """Targets of a window, on average: documents may be shorter than the context."""
        return self.data.train.num_targets / len(self.data.train)

    @property
    def tokens_per_update(self) -> float:
        """Targets of an update, on average, over all processes."""
        return self.config.training.sequences_per_update * self.tokens_per_window

    @property
    def epochs(self) -> float:
        """How often the run sees the training text."""
        return self.max_steps * self.config.training.sequences_per_update / len(self.data.train)

    def _hardware(self) -> str:
        processes = f"{self.processes.world_size} processes, each " if self.processes.world_size > 1 else ""
        return f"{processes}{self.hardware}"

    def _steps(self) -> str:
        choices = self.choices
        because = f" ({choices.micro_batch_reason})" if choices.micro_batch_reason else ""
        compiled = f"{COMPILED[choices.compile]} ({choices.compile_reason})"
        return f"micro-batches of {choices.micro_batch_size:,} sequences{because}, {compiled}"

    def _data(self) -> str:
        data = self.data
        left_out = data.prepared.train.part.tokens - data.train.num_targets - 1  # the first token is only an input
        rest = f" (the last {left_out:,} do not fill a window)" if left_out > 0 else ""
        return (
            f"{data.prepared.manifest.source}: {data.train.num_targets:,} training tokens{rest}, "
            f"{data.validation.num_targets:,} validation tokens, vocabulary {self.config.model.vocab_size:,}"
        )

    def _parameters(self) -> str:
        parts = (f"{name.replace('_', '-')} {count:,}" for name, count in self.parameters.items() if count)
        return f"{sum(self.parameters.values()):,} ({', '.join(parts)})"

    def _compute(self) -> str:
        total = sum(self.parameters.values())
        tokens = self.max_steps * self.tokens_per_update
        return (
            f"{flops_per_token(self.config.model, total) / 1e6:,.1f} MFLOP per token, {tokens / total:,.1f} tokens per "
            f"parameter; measured peak {self.peak / 1e9:,.0f} GFLOP/s"
        )

    def _update(self) -> str:
        training = self.config.training
        return (
            f"{training.batch_size} sequences x {training.grad_accum_steps} accumulated x "
            f"{self.tokens_per_window:,.0f} tokens = {self.tokens_per_update:,.0f} tokens"
        )

    def _optimizer(self) -> str:
        config = self.config.optimizer
        warmup = f" after {config.warmup_steps:,} warmup steps" if config.warmup_steps else ""
        return f"AdamW, peak learning rate {config.learning_rate:.4g}{warmup}, {_decay(config)}"

    def _length(self) -> str:
        steps = self.max_steps
        length = f"{steps:,} steps, {steps * self.tokens_per_update:,.0f} tokens, {self.epochs:.2f} epochs"
        if self.config.training.minutes == "off":
            return length
        return f"{length}, planned for {self.config.training.minutes:g} minutes and corrected during the run"

    def _not_counted(self) -> str:
        if self.config.training.minutes == "off":
            return ""
        return f"{_duration(self.prepared)} so far, of preparation and compilation: minutes count from step 1 on"

    def _expected(self) -> str:
        left = (self.max_steps - self.step) * self.seconds
        flops = flops_per_token(self.config.model, sum(self.parameters.values()))
        mfu = utilization(flops * self.tokens_per_update / self.seconds, self.peak * self.processes.world_size)
        memory = "" if math.isnan(self.memory) else f"{self.memory / 2**20:,.0f} MiB of memory, "
        return f"about {_duration(left)} of training steps, {memory}MFU {mfu:.0%}"


def warn_of_short_run(warmup: int, steps: int) -> str | None:
    """A warning where a run ends within its warmup: the learning rate never reaches its peak."""
    if warmup <= steps:
        return None
    return (
        f"warning: the run ends after {steps:,} of {warmup:,} warmup steps, so the learning rate reaches only "
        f"{steps / warmup:.0%} of its peak: lower --warmup_steps, or raise --max_steps, --epochs or --minutes"
    )


def warn_of_many_epochs(plan: Plan) -> str | None:
    """A warning where a run repeats its text so often that it will memorize it."""
    if plan.epochs <= MANY_EPOCHS:
        return None
    steps = math.ceil(MANY_EPOCHS * len(plan.data.train) / plan.config.training.sequences_per_update)
    return (
        f"warning: {plan.max_steps:,} steps are {plan.epochs:,.0f} epochs of this text, and beyond "
        f"about {MANY_EPOCHS} a model starts to memorize: --epochs {MANY_EPOCHS} is {steps:,} steps; more text, or "
        "--dropout 0.1, helps a longer run"
    )


def seconds_of_step(trial_step: Callable[[], object], processes: Processes) -> float:
    """Seconds of `trial_step`, which computes an update and leaves the run as it was: the best of a few trials."""
    # The first trial is also the warmup. All processes have to agree on how many follow: they compute them together.
    short = processes.max(_seconds(trial_step)) < 1
    return min(_seconds(trial_step) for _ in range(MANY if short else FEW))  # other programs can only slow it down


def _seconds(trial_step: Callable[[], object]) -> float:
    started = time.perf_counter()
    trial_step()
    return time.perf_counter() - started


def _decay(config: OptimizerConfig) -> str:
    """The schedule after the warmup, in words."""
    if config.schedule != "constant":
        return f"{config.schedule} decay to {config.min_learning_rate:.4g}"
    if config.decay_share == 0:
        return "constant"
    return f"constant, then linear decay to {config.min_learning_rate:.4g} over the last {config.decay_share:.0%}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
