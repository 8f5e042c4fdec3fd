"""A model compiled by `torch.compile`, and what stands in the way of that."""

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
    """What stands in the way of compiling for a device, in a few words; None where nothing is known to."""
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
    """Raise `UserError` where steps of so many micro-batches in so many processes can't be CUDA graphs.

    What a graph computes lies where its next replay will write: gradients have to be used up by then.
    """
    if torch.device(device).type != "cuda":
        raise UserError("--compile graphs: CUDA graphs need a GPU of NVIDIA's; use --compile auto or off")
    if micro_batches > 1:
        raise UserError(
            f"--compile graphs: CUDA graphs take an update at once, not {micro_batches} parts of it: lower "
            "--batch_size to what fits, without --grad_accum_steps and --micro_batch_size, or use --compile on"
        )
    if processes > 1:
        raise UserError("--compile graphs: CUDA graphs are for one process; use --compile on")


class Compiled(nn.Module):
    """A model to train, compiled when it first runs, for one shape: every batch is padded to it.

    Were shapes generalised, what is computed would depend on which of them came first, and a resumed run would round
    differently. Evaluation and samples compute with the model as it is.

    As `graphs`, a GPU replays all kernels of a pass as one: a small model otherwise waits for each to be launched.
    """

    def __init__(self, model: nn.Module, rows: int, seq: int, graphs: bool = False):
        super().__init__()
        self.model = model
        self.shape = rows, seq
        self.compiled = torch.compile(model, dynamic=False, mode="reduce-overhead" if graphs else None)

    def forward(self, ids: Tensor, targets: Tensor, reduction: Literal["sum"] = "sum") -> Tensor:
        """ids, targets (batch, seq) -> () the summed loss; what is padded counts for nothing."""
        return self.compiled(self._padded(ids, 0), self._padded(targets, IGNORED), reduction=reduction)

    def _padded(self, x: Tensor, value: int) -> Tensor:
        rows, seq = self.shape
        return pad(x, (0, seq - x.shape[1], 0, rows - x.shape[0]), value=value)
