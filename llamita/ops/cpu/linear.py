"""A linear layer in bf16 with fp32 weights, for training: torch's matmul, saving less for the backward pass.

    y = x · Wᵀ + b,      dx = dy · W,   dW = dyᵀ · x,   db = Σ dy

torch's matmul saves both of its operands. Saved-tensor hooks replace them with recipes (see `recompute`): W is cast
again from the fp32 weights, so no bf16 copy of them lives from the forward to the backward pass, and x is recomputed
where that is cheap.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from llamita.ops.cpu.cast import cast_to_bf16
from llamita.ops.cpu.recompute import Recipe, Recompute, recipe_of

BF16, FP32 = torch.bfloat16, torch.float32
MIN_ELEMENTS = 1 << 19
"""Elements of x or of the weights up to which hooks cost more time than saving a megabyte is worth."""


def supports(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether these have the dtypes and the layout that `linear` reads, and are large enough to gain from it."""
    is_fp32 = weight.dtype == FP32 and weight.is_contiguous() and (bias is None or bias.dtype == FP32)
    return is_fp32 and x.dtype in (BF16, FP32) and x.numel() > 0 and max(x.numel(), weight.numel()) > MIN_ELEMENTS


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., in) bf16 or fp32, weight (out, in) fp32, bias (out,) fp32 -> (..., out) bf16."""
    rows, recipe = x.reshape(-1, x.shape[-1]), recipe_of(x)  # (tokens, in)
    if rows.dtype == FP32:
        rows = rows.contiguous()
        recipe = recipe or _cast_recipe("activations", rows)
        rows = rows.to(BF16)
    with saved_tensors_hooks(_pack(recipe, _cast_recipe("weight", weight)), _unpack):
        out = _matmul(rows, weight.to(BF16).T, bias)  # (tokens, out)
    return out.view(*x.shape[:-1], len(weight))


def _matmul(rows: Tensor, columns: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(rows, columns) if bias is None else torch.addmm(bias.to(BF16), rows, columns)


def _cast_recipe(name: str, x: Tensor) -> Recipe:
    """x, contiguous fp32, cast to bf16. x needs no extra memory: it is a weight, or saved by another layer anyway."""
    return Recipe(Recompute(name, tuple(x.shape), lambda out, x: cast_to_bf16(x, out)), (x.detach(),), 0)


class _Saved:
    """A recipe in place of a saved tensor, with that tensor's layout."""

    __slots__ = ("layout", "recipe", "versions")

    def __init__(self, recipe: Recipe, tensor: Tensor):
        self.recipe, self.layout = recipe, (tensor.size(), tensor.stride())
        self.versions = [tensor._version for tensor in recipe.tensors]

    def tensor(self) -> Tensor:
        """Recompute the tensor. Raises `RuntimeError` if its inputs were modified in place meanwhile."""
        if self.versions != [tensor._version for tensor in self.recipe.tensors]:
            raise RuntimeError("a tensor needed for the gradient of a linear layer was modified in place")
        return self.recipe.recompute(*self.recipe.tensors).as_strided(*self.layout)


def _pack(x: Recipe | None, weight: Recipe) -> Callable[[Tensor], Any]:
    """The pack hook for the operands of a matmul: only the weights' is transposed, (in, out) with strides (1, in)."""

    def pack(operand: Tensor) -> Any:
        recipe = weight if operand.stride(0) == 1 else x
        return _Saved(recipe, operand) if recipe else operand

    return pack


def _unpack(saved: Any) -> Tensor:
    if type(saved) is not _Saved:
        return saved
    if torch.is_grad_enabled():  # the next recomputation overwrites the result; see `launch.once_differentiable`
        raise RuntimeError('fused kernels have no second derivative: compute under `ops.backend("plain")`')
    return saved.tensor()
