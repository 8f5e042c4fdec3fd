"""The [run] table: how and where a run is computed."""

from dataclasses import dataclass
from typing import Literal

from llamita.config.checks import require_not_negative, require_positive
from llamita.errors import UserError

MOST_THREADS = 1024

ONE_START = "extend", "new", "allow_changed_code"
"""Settings that a start has and its run has not: they are not kept in config.toml."""

Interval = int | Literal["epoch"]
"""How often something is done: after that many steps, or whenever an epoch ends."""


@dataclass(frozen=True)
class ExecutionConfig:
    """How and where a run is computed, and what it says meanwhile. Every field may change from start to start."""

    name: str = ""
    """Name of the run in its directory's name; empty: after the data."""
    output_dir: str = ""
    """The run directory; empty: runs/<name>-<hash of the identity>."""
    extend: bool = False
    """Let a run be resumed with a larger max_steps."""
    new: bool = False
    """Where changed code would go on with an old run, begin another, in a numbered directory beside it. Repeated, the
    same command resumes that one."""
    allow_changed_code: bool = False
    """Resume a run although the code that computes it has changed; config.toml notes where."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Of the matrix products; weights stay fp32. auto: bf16, else fp16, where a device multiplies them natively."""
    kernels: Literal["auto", "native", "plain"] = "auto"
    """What computes between matrix products. native: llamita's compiled loops (bf16 on a CPU); plain: torch's own."""
    compile: Literal["auto", "on", "off", "graphs"] = "auto"
    """Whether torch.compile joins the model's steps. auto: where there are no fused kernels, and the run has enough
    operations to win back the wait, by a nominal speed of the kind of device.
    graphs: as CUDA graphs, too, for small models on a GPU (not measured yet, so never chosen by auto)."""
    world_size: int = 0
    """Processes that train together on this machine, each with a GPU or its share of cores; 0: one, or torchrun's."""
    threads: int = 0
    """CPU threads of each process; 0: its share of those it may use, a pure function of model shape, device and total
    memory; never of load or timing."""
    micro_batch_size: int | Literal["auto"] = 0
    """Sequences a process computes at once; 0: its share of batch_size. auto: the most that fits into the memory
    of the machine, by the estimate that `llamita presets` prints."""
    log_every: Interval = 10
    """Steps between lines of metrics.jsonl, or `epoch`."""
    eval_every: Interval = 500
    """Steps between evaluations on the validation set, or `epoch`."""
    eval_sequences: int | Literal["auto"] = "auto"
    """Validation windows of each evaluation while training, evenly spread and always the same; 0: all. auto: as many
    as have 64,000 tokens, or all where the loss is compared with a floor, as that of the built-in stories."""
    save_every: Interval = 500
    """Steps between checkpoints, or `epoch`. One is also saved before each evaluation, and the best is always kept."""
    keep_last: int = 2
    """Newest checkpoints that are kept, besides the best; 0: all. With 1, none is left to fall back on."""
    sample_every: Interval = 500
    """Steps between samples, or `epoch`; 0: none."""
    sample_count: int = 16
    """Samples drawn each time (for the built-in stories, the grammar judges all of them)."""

    def __post_init__(self) -> None:
        require_positive(self, "sample_count", *_numbers(self, "log_every", "eval_every", "save_every"))
        require_not_negative(self, "world_size", "threads", "keep_last")
        require_not_negative(self, *_numbers(self, "micro_batch_size", "eval_sequences"))
        require_not_negative(self, *_numbers(self, "sample_every"))
        if self.threads > MOST_THREADS:
            raise UserError(f"threads is {self.threads:,}, but at most {MOST_THREADS:,} are started")


def _numbers(config: ExecutionConfig, *names: str) -> list[str]:
    """Those of these settings that are numbers, not `auto` or `epoch`."""
    return [name for name in names if not isinstance(getattr(config, name), str)]
