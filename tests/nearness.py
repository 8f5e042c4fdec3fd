"""How near a compiled kernel must come to the same mathematics in fp64, on the same numbers.

It follows from bf16, which has 8 significant bits: to round is to err by 2⁻⁸ of the number at most, and by 1.6·10⁻³ in
the root mean square. What is rounded once, on its way out, is held to the first, element by element (`ROUNDING`). Where
products have roundings in between, the whole tensor is held to those of a dozen independent ones (`NEAR`).
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from llamita.jit.tiles import has_bf16_products

BF16 = torch.bfloat16
ROUNDING = 2**-8 * 1.001  # and a little for fp32
NEAR = 6e-3


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = BF16) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def wide(x: Tensor) -> Tensor:
    """The same numbers in fp64, learned anew."""
    return x.detach().double().requires_grad_(x.requires_grad)


def distance(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|, of the whole tensors."""
    return ((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30)).item()


def assert_rounded_once(found: Tensor, expected: Tensor, smallest: float = 1e-37) -> None:
    assert ((found.double() - expected).abs() <= ROUNDING * expected.abs() + smallest).all()


def learned(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.requires_grad_() for tensor in tensors)


def gradients(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    out = function(*inputs)
    return out.detach(), *torch.autograd.grad(out, inputs, grad.to(out.dtype))


LAYOUTS = {
    "contiguous": lambda x: x,
    "positions first": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),  # as a linear layer leaves heads
    "elements far apart": lambda x: x.mT.contiguous().mT,
    "every second": lambda x: x.repeat_interleave(2, 0).repeat_interleave(2, 2)[::2, :, ::2],
}

needs_bf16_products = pytest.mark.skipif(not has_bf16_products(), reason="the processor has no AVX512_BF16")
