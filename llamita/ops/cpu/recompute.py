"""Activation recomputation: cheap outputs are computed again in the backward pass instead of being saved for it.

Matrix products save the output of a norm or of silu(gate) · up for their weight gradients. But that output can be
computed from what the norm or the gate saves anyway. So these operations attach a `Recipe` to their output, and a
product that finds one on its input saves the recipe's tensors instead, which costs no memory. An output that was
modified in place, replaced or computed otherwise has no recipe, and is saved as usual.
"""

import threading
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from llamita.ops.cpu.scratch import scratch

ATTRIBUTE = "_llamita_recipe"


class Recompute:
    """Fills a scratch buffer called `name`, of this shape, from saved tensors."""

    __slots__ = ("__weakref__", "fill", "name", "shape")

    def __init__(self, name: str, shape: tuple[int, ...], fill: Callable[..., object]):
        """`fill(out, *tensors)` writes the output."""
        self.name, self.shape, self.fill = name, shape, fill

    def __call__(self, *tensors: Tensor) -> Tensor:
        """The output, in memory that the next one with this name overwrites. Several readers share one computation."""
        out = scratch(self.name, *self.shape, like=tensors[0])
        if _current.outputs.get(self.name) != (self, id(out)):
            self.fill(out, *tensors)
            _current.outputs[self.name] = self, id(out)
        return out


class Recipe(NamedTuple):
    """How to recompute an output, and from which tensors; `version` is the output's version counter."""

    recompute: Recompute
    tensors: tuple[Tensor, ...]
    version: int


class _Current(threading.local):
    """Which output each scratch buffer of this thread holds."""

    def __init__(self) -> None:
        self.outputs: dict[str, tuple[Recompute, int]] = {}


_current = _Current()


def attach(out: Tensor, recompute: Recompute, *tensors: Tensor) -> Tensor:
    """Let products that read `out` recompute it from `tensors` -> out."""
    if out.requires_grad:
        detached = tuple(tensor.detach() for tensor in tensors)  # they share memory and version counter
        setattr(out, ATTRIBUTE, Recipe(recompute, detached, out._version))
    return out


def recipe_of(x: Tensor) -> Recipe | None:
    """The recipe of x; None if it has none or was modified in place since."""
    recipe: Recipe | None = getattr(x, ATTRIBUTE, None)
    return recipe if recipe is not None and recipe.version == x._version else None
