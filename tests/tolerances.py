"""Tolerances of fused kernels against the same computation in fp64.

They follow from bf16, which has 8 significant bits: the relative rounding error is at most 2⁻⁸, and 1.6·10⁻³ in the
root mean square. Outputs that are rounded once must satisfy the first bound element by element (`ROUNDING`). With
roundings in between, the whole tensor must be within a dozen independent rounding errors (`TOLERANCE`).
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from llamita.jit.tiles import has_bf16_products

BF16 = torch.bfloat16
ROUNDING = 2**-8 * 1.001  # plus a margin for fp32
TOLERANCE = 6e-3


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = BF16) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def to_fp64(x: Tensor) -> Tensor:
    """The same values in fp64, as a new leaf."""
    return x.detach().double().requires_grad_(x.requires_grad)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The relative error |found - expected| / |expected| of the whole tensors."""
    return ((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30)).item()


def assert_rounded_once(found: Tensor, expected: Tensor, smallest: float = 1e-37) -> None:
    assert ((found.double() - expected).abs() <= ROUNDING * expected.abs() + smallest).all()


def with_grad(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.requires_grad_() for tensor in tensors)


def gradients(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    out = function(*inputs)
    return out.detach(), *torch.autograd.grad(out, inputs, grad.to(out.dtype))


LAYOUTS = {
    "contiguous": lambda x: x,
    "positions first": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),  # the layout after a linear layer
    "elements far apart": lambda x: x.mT.contiguous().mT,
    "every second": lambda x: x.repeat_interleave(2, 0).repeat_interleave(2, 2)[::2, :, ::2],
}

needs_bf16_products = pytest.mark.skipif(not has_bf16_products(), reason="the processor has no AVX512_BF16")
