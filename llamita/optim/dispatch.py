"""The choice between the fused CPU kernels of an optimizer and its formulas as they are written here."""

from collections.abc import Iterable

from torch import Tensor

from llamita.ops.cpu import flat


def use_fused_kernel(tensors: Iterable[Tensor]) -> bool:
    """Whether a fused kernel computes on all of these: contiguous fp32 tensors in the CPU's memory."""
    return all(flat.lies_flat(tensor) for tensor in tensors)
