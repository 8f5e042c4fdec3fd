"""The [run] table: how and where a run is computed, and its output."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llamita.config.checks import require_not_negative, require_positive, require_utf8
from llamita.errors import UserError

MOST_THREADS = 1024
LONGEST_NAME = 200
"""Bytes of one folder of a run's name: most file systems take 255, and a hash is appended."""

ONE_START = "extend", "new", "allow_changed_code"
"""Settings of a single start: they are not saved in config.toml."""

Interval = int | Literal["epoch"]
"""How often something happens: after that many steps, or at the end of every epoch."""

AutoInterval = int | Literal["auto", "epoch"]
"""The same, or auto: about ten times per run."""


@dataclass(frozen=True)
class ExecutionConfig:
    """How and where a run is computed, and its output. Every field may change when a run is resumed."""

    name: str = ""
    """Name of the run, for its directory: runs/<name>-<hash>; empty: named after the data."""
    output_dir: str = ""
    """The run directory; empty: runs/<name>-<hash of the identity settings>."""
    extend: bool = False
    """Resume a run with a larger max_steps; needs output_dir."""
    new: bool = False
    """If the code has changed since the run, start another in a numbered directory beside it. The same command resumes
    that one."""
    allow_changed_code: bool = False
    """Resume a run although the code that computes it has changed; config.toml records at which step."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps. auto: a GPU if there is one."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Precision of matrix products; weights stay fp32. auto: bf16, else fp16, if the device computes it natively."""
    kernels: Literal["auto", "native", "plain"] = "auto"
    """native: fused kernels where they support the inputs (bf16 on a CPU, AdamW); plain: the reference implementations
    in `ops/reference.py` and of the optimizer. auto: native, or plain if numba cannot be imported."""
    compile: Literal["auto", "on", "off", "graphs"] = "auto"
    """torch.compile. auto: on if there are no fused kernels and the run is long enough to win back the compile time;
    graphs: with CUDA graphs, for small models on a GPU (auto never chooses it)."""
    world_size: int = 0
    """Processes that train together on this machine, each with a GPU or its share of cores; 0: one, or torchrun's."""
    threads: int = 0
    """CPU threads per process; 0: its share of the available cores, by model shape, device and total memory."""
    micro_batch_size: int | Literal["auto"] = 0
    """Sequences per forward pass of a process; 0: its share of batch_size. auto: as many as fit into memory, by the
    estimate that `llamita presets` prints."""
    log_every: Interval = 10
    """Steps between lines of metrics.jsonl, or `epoch`."""
    eval_every: AutoInterval = "auto"
    """Steps between evaluations on the validation set, or `epoch`. auto: a tenth of the run."""
    eval_sequences: int | Literal["auto"] = "auto"
    """Validation windows per evaluation during training, evenly spread, always the same; 0: all. auto: as many as have
    64,000 tokens, or all if the data has a known loss floor, as the built-in stories do."""
    save_every: AutoInterval = "auto"
    """Steps between checkpoints, or `epoch`. auto: a tenth of the run, or 15 minutes if that is sooner. One is also
    saved before each evaluation, and the best is always kept."""
    keep_last: int = 2
    """Number of newest checkpoints to keep, besides the best; 0: all. With 1, there is none to fall back on."""
    sample_every: AutoInterval = "auto"
    """Steps between samples, or `epoch`; 0: none. auto: a tenth of the run."""
    sample_count: int = 16
    """Samples per sampling; one is printed, all go to samples.jsonl (and the grammar judges built-in stories)."""
    track: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Mirror metrics.jsonl into this tracker, which has to be installed: pip install "llamita[wandb]" and so on."""

    def __post_init__(self) -> None:
        require_positive(self, "sample_count", *_numbers(self, "log_every", "eval_every", "save_every"))
        require_not_negative(self, "world_size", "threads", "keep_last")
        require_not_negative(self, *_numbers(self, "micro_batch_size", "eval_sequences"))
        require_not_negative(self, *_numbers(self, "sample_every"))
        require_utf8(self, "name", "output_dir")
        _check_name(self.name)
        if self.threads > MOST_THREADS:
            raise UserError(f"threads is {self.threads:,}, but must be at most {MOST_THREADS:,}")


def _numbers(config: ExecutionConfig, *names: str) -> list[str]:
    """The names whose settings are numbers, not `auto` or `epoch`."""
    return [name for name in names if not isinstance(getattr(config, name), str)]


def _check_name(name: str) -> None:
    """Raise `UserError` unless a directory of this name is inside runs/. Folders, as in a/b, are fine."""
    path = Path(name)
    if path.is_absolute() or path.drive or os.pardir in path.parts:
        raise UserError(f"name is {name!r}, but must stay inside runs/: give the run's path with --output_dir instead")
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise UserError(f"name is {name!r}, but may have at most {LONGEST_NAME} bytes: shorten it")
