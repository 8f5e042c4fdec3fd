"""Cheap outputs are computed again in the backward pass instead of kept for it.

The output of a norm or of silu(gate) · up is what the products after it keep for their weight gradients. Yet it follows
from what the norm and the gate keep anyway. So these operations attach a `Recipe` to their output, and a product that
finds one on its input saves the recipe's tensors, which costs nothing. An output that was changed in place, replaced or
computed otherwise has no recipe, and is kept as always.
"""

import threading
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from llamita.ops.cpu.scratch import scratch

ATTRIBUTE = "_llamita_recipe"


class Recompute:
    """Fills a scratch buffer called `name`, of this shape, from tensors that were saved."""

    __slots__ = ("__weakref__", "fill", "name", "shape")

    def __init__(self, name: str, shape: tuple[int, ...], fill: Callable[..., object]):
        """`fill(out, *tensors)` writes the output."""
        self.name, self.shape, self.fill = name, shape, fill

    def __call__(self, *tensors: Tensor) -> Tensor:
        """The output, in memory that the next one with this name overwrites. Computed once for several readers."""
        out = scratch(self.name, *self.shape, like=tensors[0])
        if _newest.of.get(self.name) != (self, id(out)):
            self.fill(out, *tensors)
            _newest.of[self.name] = self, id(out)
        return out


class Recipe(NamedTuple):
    """How to compute an output again, and from which tensors; `version` is that of the output it belongs to."""

    recompute: Recompute
    tensors: tuple[Tensor, ...]
    version: int


class _Newest(threading.local):
    """Which output each buffer of this thread holds."""

    def __init__(self) -> None:
        self.of: dict[str, tuple[Recompute, int]] = {}


_newest = _Newest()


def attach(out: Tensor, recompute: Recompute, *tensors: Tensor) -> Tensor:
    """Let products that read `out` compute it again from `tensors` -> out."""
    if out.requires_grad:
        detached = tuple(tensor.detach() for tensor in tensors)  # they share memory and version counter
        setattr(out, ATTRIBUTE, Recipe(recompute, detached, out._version))
    return out


def recipe_of(x: Tensor) -> Recipe | None:
    """The recipe of x, unless x was changed in place since."""
    recipe: Recipe | None = getattr(x, ATTRIBUTE, None)
    return recipe if recipe is not None and recipe.version == x._version else None
