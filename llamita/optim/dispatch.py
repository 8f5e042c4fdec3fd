"""The choice between the fused CPU kernels of an optimizer and its formulas as they are written here."""

from collections.abc import Iterable

from torch import Tensor

from llamita.ops.cpu import chunks
from llamita.ops.cpu.launch import has_no_values


def use_fused_kernel(tensors: Iterable[Tensor]) -> bool:
    """Whether a fused kernel takes all of these: contiguous fp32 tensors on the CPU, and not `--kernels plain`.

    FakeTensors, on which memory is estimated, take the formulas: the kernels of an optimizer get addresses, and a
    FakeTensor has none.
    """
    tensors = list(tensors)
    return not any(map(has_no_values, tensors)) and chunks.fits(*tensors)
