"""A linear layer in bf16 with fp32 weights, for training: torch's product, with less saved for the backward pass.

    y = x · Wᵀ + b,      dx = dy · W,   dW = dyᵀ · x,   db = Σ dy

torch's product saves both of its factors. Saved-tensor hooks replace them by recipes (see `recompute`): W is rounded to
bf16 again from the fp32 weights, so no bf16 copy of them is kept from the forward to the backward pass, and x is
computed again where that is cheap.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from llamita.ops.cpu.narrow import narrow
from llamita.ops.cpu.recompute import Recipe, Recompute, recipe_of

BF16, FP32 = torch.bfloat16, torch.float32
SMALL = 1 << 19
"""Elements of x and of the weights up to which hooks take more time than saving a megabyte is worth."""


def fits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether these have the types and the layout that the kernel reads, and are large enough to gain by it."""
    in_fp32 = weight.dtype == FP32 and weight.is_contiguous() and (bias is None or bias.dtype == FP32)
    return in_fp32 and x.dtype in (BF16, FP32) and x.numel() > 0 and max(x.numel(), weight.numel()) > SMALL


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., in) bf16 or fp32, weight (out, in) fp32, bias (out,) fp32 -> (..., out) bf16."""
    rows, recipe = x.reshape(-1, x.shape[-1]), recipe_of(x)  # (tokens, in)
    if rows.dtype == FP32:
        rows = rows.contiguous()
        recipe = recipe or _narrowed("narrowed", rows)
        rows = rows.to(BF16)
    with saved_tensors_hooks(_pack(recipe, _narrowed("weight", weight)), _unpack):
        out = _product(rows, weight.to(BF16).T, bias)  # (tokens, out)
    return out.view(*x.shape[:-1], len(weight))


def _product(rows: Tensor, columns: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(rows, columns) if bias is None else torch.addmm(bias.to(BF16), rows, columns)


def _narrowed(name: str, x: Tensor) -> Recipe:
    """x, contiguous fp32, rounded to bf16. Whatever made x keeps it, or other products share it."""
    return Recipe(Recompute(name, tuple(x.shape), lambda out, x: narrow(x, out)), (x.detach(),), 0)


class _Saved:
    """A recipe in the place of a saved tensor, with the layout of the latter."""

    __slots__ = ("layout", "recipe", "versions")

    def __init__(self, recipe: Recipe, tensor: Tensor):
        self.recipe, self.layout = recipe, (tensor.size(), tensor.stride())
        self.versions = [tensor._version for tensor in recipe.tensors]

    def tensor(self) -> Tensor:
        """Compute the tensor again. Raises `RuntimeError` where what it was computed from was changed meanwhile."""
        if self.versions != [tensor._version for tensor in self.recipe.tensors]:
            raise RuntimeError("a tensor needed for the gradient of a linear layer was changed in place")
        return self.recipe.recompute(*self.recipe.tensors).as_strided(*self.layout)


def _pack(x: Recipe | None, weight: Recipe) -> Callable[[Tensor], Any]:
    """The hook for the factors of a product: only that of the weights is transposed, (in, out) with strides (1, in)."""

    def pack(factor: Tensor) -> Any:
        recipe = weight if factor.stride(0) == 1 else x
        return _Saved(recipe, factor) if recipe else factor

    return pack


def _unpack(saved: Any) -> Tensor:
    if type(saved) is not _Saved:
        return saved
    if torch.is_grad_enabled():  # the next recomputation overwrites it; see `launch.first_order`
        raise RuntimeError('fused kernels have no second derivative: compute under `ops.backend("plain")`')
    return saved.tensor()
