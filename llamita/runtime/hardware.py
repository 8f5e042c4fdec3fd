"""Device, precision, kernels and threads of a run: what `auto` means, and how it is applied to a model."""

import ctypes
import re
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from llamita import jit, ops
from llamita.config import ExecutionConfig, ModelConfig
from llamita.errors import UserError
from llamita.jit.cpu import usable_cores
from llamita.model import Llama
from llamita.optim import DynamicLossScaling, NoScaling, Scaling
from llamita.parallel import Processes
from llamita.runtime.threads import choose_threads

DEVICES = re.compile(r"cpu|mps|cuda(:\d+)?")
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
PROCESSES_PER_CORE = 4  # more than one is only useful for trials; each takes some 300 MB for itself
PRECISION_REASONS = {
    "bf16": "natively supported",
    "fp16": "natively supported, unlike bf16",
    "fp32": "no native support for bf16 or fp16",
}
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # Intel and AMD, Intel, Arm


@dataclass(frozen=True)
class Hardware:
    """Where and how a run is computed: the requested settings, with every `auto` resolved."""

    device: str
    precision: str
    threads: int
    kernels: str = "native"
    reasons: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Setting -> why `auto` chose its value."""

    @property
    def choices(self) -> dict[str, Any]:
        """The choices by name, as a run records them."""
        return {"device": self.device, "precision": self.precision, "threads": self.threads, "kernels": self.kernels}

    @property
    def computes_natively(self) -> bool:
        """Whether fused kernels compute the model: they exist for bf16 on a CPU."""
        return self.kernels == "native" and self.device == "cpu" and self.precision == "bf16"

    def __str__(self) -> str:
        because = {name: f" ({reason})" for name, reason in self.reasons.items()}
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        parts = [self.device, f"{self.precision}{because.get('precision', '')}", threads]
        if torch.device(self.device).type == "cpu":
            parts.append(f"{self.kernels} kernels{because.get('kernels', '')}")
        return ", ".join(parts)

    def apply(self, model: Llama) -> Llama:
        """Set the threads and the op backend of this process, and move `model` to the device -> the model."""
        torch.set_num_threads(self.threads)
        ops.backend.use(self.kernels)
        if self.device == "cpu":
            _keep_freed_memory()
        return model.to(self.device)

    def wait(self) -> None:
        """Synchronize with the device, before a clock is read."""
        kind = torch.device(self.device).type
        if kind == "cuda":
            torch.cuda.synchronize(self.device)
        elif kind == "mps":
            torch.mps.synchronize()

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass: autocast to the precision of the run."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, AUTOCAST[self.precision])

    def scaling(self, state: dict[str, Any] | None = None) -> Scaling:
        """Loss scaling, which keeps small gradients from underflowing in fp16; `state`: its state in a checkpoint."""
        return DynamicLossScaling(**(state or {})) if self.precision == "fp16" else NoScaling()


def choose_hardware(
    config: ExecutionConfig,
    processes: Processes = Processes(),  # noqa: B008  (frozen)
    model: ModelConfig | None = None,
) -> Hardware:
    """Resolve every `auto`, by the machine and the shape of `model`, never by the load.

    Raises `UserError` for a device that is missing, or that cannot serve this many processes.
    """
    device = _best_device() if config.device == "auto" else config.device
    _check_device(device)
    if processes.world_size > 1:
        _assign_device(device, processes)
    precision = best_precision(device) if config.precision == "auto" else config.precision
    reasons = {"precision": PRECISION_REASONS[precision]} if config.precision == "auto" else {}
    kernels, reasons["kernels"] = _choose_kernels(config.kernels)
    threads = config.threads or choose_threads(model, usable_cores() // processes.local_world_size)
    return Hardware(device, precision, threads, kernels, reasons=reasons)


def _choose_kernels(requested: str) -> tuple[str, str]:
    if requested != "auto":
        return requested, "as requested"
    return ("native", "fused where available") if jit.available() else ("plain", "numba cannot be imported")


def best_precision(device: str) -> str:
    """The narrowest precision with native support: bf16, which has the range of fp32, before fp16."""
    if has_bf16(device):
        return "bf16"
    return "fp16" if has_fast_fp16(device) else "fp32"


def has_bf16(device: str) -> bool:
    """Whether the device supports bf16 natively; emulated, it would be slower than fp32."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if kind == "cpu":
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return any(capabilities.get(name) for name in BF16_INSTRUCTIONS)
    return False


def has_fast_fp16(device: str) -> bool:
    """Whether the device has fast native fp16: NVIDIA GPUs from Volta on."""
    return torch.device(device).type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)


def _assign_device(device: str, processes: Processes) -> None:
    """Assign each process of this machine its own GPU, which is `cuda` from then on."""
    if device.startswith(("mps", "cuda:")):
        raise UserError(
            f"--device {device} is a single device, for one process: leave out --world_size, or use --device cpu"
        )
    if device == "cuda":
        require_places(device, processes.local_world_size)
        torch.cuda.set_device(processes.local_rank)


def require_places(device: str, processes: int) -> None:
    """Raise `UserError` for more processes than this machine has GPUs, or many more than it has cores.

    For an `auto` device only the cores count: it is the CPU if the run began on the CPU.
    """
    if device == "cuda" and processes > torch.cuda.device_count():
        raise UserError(
            f"--world_size: {processes:,} processes here, but each needs a GPU, and there are "
            f"{torch.cuda.device_count()}: lower it, or use --device cpu"
        )
    if processes > (most := PROCESSES_PER_CORE * usable_cores()):
        raise UserError(
            f"--world_size: {processes:,} processes on {usable_cores():,} cores would only slow each other down: "
            f"the limit here is {most:,}"
        )


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_device(device: str) -> None:
    if not DEVICES.fullmatch(device):
        raise UserError(f"--device {device} is unknown: choose auto, cpu, cuda, a specific GPU such as cuda:1, or mps")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        # the message of torch is a page long, and without mps it starts with a list of kernels
        reason = "PyTorch finds no Apple GPU" if device == "mps" else str(error).splitlines()[0].partition(". ")[0]
        # Not `auto`: in a resumed run, that is the device that it began on.
        other = _best_device() if _best_device() != device else "cpu"
        raise UserError(f"--device {device} cannot be used here ({reason}): use --device {other}") from None


def _keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step: returning it and faulting it in again takes a tenth of a step."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)
