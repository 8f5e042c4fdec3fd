"""The choice between the fused CPU kernels of an optimizer and its formulas as they are written here."""

from collections.abc import Iterable

from torch import Tensor

from llamita.ops.cpu import chunks


def use_fused_kernel(tensors: Iterable[Tensor]) -> bool:
    """Whether a fused kernel computes on all of these: contiguous fp32 on the CPU, and not `--kernels plain`."""
    return chunks.fits(*tensors)
