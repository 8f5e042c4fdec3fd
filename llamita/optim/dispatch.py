"""Dispatch between an optimizer's fused CPU kernels and its reference."""

from collections.abc import Iterable

from torch import Tensor

from llamita.ops.cpu import chunks
from llamita.ops.cpu.launch import is_fake


def use_fused_kernel(tensors: Iterable[Tensor]) -> bool:
    """Whether a fused kernel supports all of these: contiguous fp32 tensors on the CPU, without `--kernels plain`.

    FakeTensors, used by the memory estimate, take the reference: the kernels read memory by address, and a FakeTensor
    has none.
    """
    tensors = list(tensors)
    return not any(map(is_fake, tensors)) and chunks.supports(*tensors)
