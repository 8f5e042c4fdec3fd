"""A model compiled by `torch.compile`, and what may prevent that."""

import os
import shutil
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from llamita.errors import UserError
from llamita.targets import IGNORED

Kind = Literal["off", "on", "graphs"]

COMPILERS = "c++", "g++", "clang++"


def compile_problem(device: str) -> str | None:
    """Why torch.compile cannot be used for a device, in a few words; None if nothing is known to prevent it."""
    kind = torch.device(device).type
    if kind == "mps":
        return "torch does not compile for Apple GPUs reliably"
    if kind == "cuda" and torch.cuda.get_device_capability(device) < (7, 0):
        return "this GPU is too old for torch's compiler"
    if kind == "cuda" and find_spec("triton") is None:
        return "triton is not installed"
    if kind == "cpu" and not any(shutil.which(name) for name in (os.environ.get("CXX", ""), *COMPILERS) if name):
        return "there is no C++ compiler"
    return None


def require_graphs(device: str, micro_batches: int, processes: int) -> None:
    """Raise `UserError` if steps of this many micro-batches and processes cannot be CUDA graphs.

    The next replay of a graph overwrites its outputs, so gradients cannot accumulate over micro-batches.
    """
    if torch.device(device).type != "cuda":
        raise UserError("--compile graphs: CUDA graphs need an NVIDIA GPU; use --compile auto or off")
    if micro_batches > 1:
        raise UserError(
            f"--compile graphs: CUDA graphs need an update in one micro-batch, not in {micro_batches}: lower "
            "--batch_size until it fits, without --grad_accum_steps and --micro_batch_size, or use --compile on"
        )
    if processes > 1:
        raise UserError("--compile graphs: CUDA graphs work in one process only; use --compile on")


class Compiled(nn.Module):
    """A model to train, compiled on its first call, for one shape to which every batch is padded.

    With dynamic shapes, the compiled code would depend on which shape came first, and a resumed run would round
    differently. Evaluation and sampling use the model without compilation.

    With `graphs`, a GPU replays all kernels of a pass with one launch: small models otherwise wait for launches.
    """

    def __init__(self, model: nn.Module, rows: int, seq: int, graphs: bool = False):
        super().__init__()
        self.model = model
        self.shape = rows, seq
        self.compiled = torch.compile(model, dynamic=False, mode="reduce-overhead" if graphs else None)

    def forward(self, ids: Tensor, targets: Tensor, reduction: Literal["sum"] = "sum") -> Tensor:
        """ids, targets (batch, seq) -> () the summed loss; padding does not count."""
        return self.compiled(self._padded(ids, 0), self._padded(targets, IGNORED), reduction=reduction)

    def _padded(self, x: Tensor, value: int) -> Tensor:
        rows, seq = self.shape
        return pad(x, (0, seq - x.shape[1], 0, rows - x.shape[0]), value=value)
