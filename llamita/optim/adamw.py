"""AdamW, written out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from llamita.ops.cpu.adamw import adamw
from llamita.optim.base import Optimizer
from llamita.optim.dispatch import use_fused_kernel

Row = tuple[Tensor, Tensor, Tensor, Tensor]
"""A parameter, its gradient, and its moments m and v."""


@dataclass(frozen=True)
class Update:
    """The hyperparameters of one update; `step` counts updates from 1."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    step: int


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Kingma & Ba, 2015; Loshchilov & Hutter, 2019).

        m ← β1·m + (1 - β1)·g                   running mean of gradients
        v ← β2·v + (1 - β2)·g²                  running mean of squared gradients
        p ← p - lr·λ·p - lr · (m / (1 - β1ᵗ)) / (sqrt(v / (1 - β2ᵗ)) + ε)

    Given the same gradients, its updates are those of `torch.optim.AdamW`. State per parameter: `step`, `exp_avg` (m),
    `exp_avg_sq` (v); m and v have the shape and dtype of the parameter.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ):
        """`params`: parameters or parameter groups. Raises `ValueError` for hyperparameters out of range."""
        if not (lr >= 0 and eps >= 0 and weight_decay >= 0 and all(0 <= beta < 1 for beta in betas)):
            raise ValueError(f"out of range: lr {lr}, betas {betas}, eps {eps}, weight_decay {weight_decay}")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update every parameter that has a gradient. Returns the loss of `closure`, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for step, rows in self._rows(group).items():
                beta1, beta2 = group["betas"]
                update_rows(rows, Update(group["lr"], beta1, beta2, group["eps"], group["weight_decay"], step))
        return loss

    def state_bytes(self) -> int:
        """Bytes of m and v, each with the shape and dtype of the parameter."""
        parameters = (parameter for group in self.param_groups for parameter in group["params"])
        return sum(2 * parameter.numel() * parameter.element_size() for parameter in parameters)

    def _rows(self, group: dict[str, Any]) -> dict[int, list[Row]]:
        """(parameter, gradient, m, v) of each parameter with a gradient, by step, usually the same for all."""
        rows: dict[int, list[Row]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                state = self.state[parameter] or self._new_state(parameter)
                state["step"] += 1
                row = parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"]
                rows.setdefault(state["step"], []).append(row)
        return rows

    def _new_state(self, parameter: Tensor) -> dict[str, Any]:
        state = self.state[parameter]
        state["step"] = 0
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state


def update_rows(rows: Sequence[Row], update: Update) -> None:
    """Update parameters, m and v in place: with the fused kernel if it supports them, else with the reference."""
    if use_fused_kernel(chain.from_iterable(rows)):
        adamw(rows, **asdict(update))
    else:
        reference_adamw(rows, update)


def reference_adamw(rows: Sequence[Row], update: Update) -> None:
    """The formulas in multi-tensor operations (torch's foreach), which saves a GPU thousands of kernel launches."""
    foreach: Any = torch  # the foreach operations are not public API
    parameters, grads, means, squares = (list(column) for column in zip(*rows, strict=True))
    foreach._foreach_lerp_(means, grads, 1 - update.beta1)
    foreach._foreach_mul_(squares, update.beta2)
    foreach._foreach_addcmul_(squares, grads, grads, 1 - update.beta2)
    unbiased = foreach._foreach_div(squares, 1 - update.beta2**update.step)
    foreach._foreach_sqrt_(unbiased)
    foreach._foreach_add_(unbiased, update.eps)
    foreach._foreach_mul_(parameters, 1 - update.lr * update.weight_decay)
    foreach._foreach_addcdiv_(parameters, means, unbiased, -update.lr / (1 - update.beta1**update.step))
