"""AdamW by hand."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from llamita.ops.cpu import chunks
from llamita.ops.cpu.adamw import adamw

Row = tuple[Tensor, Tensor, Tensor, Tensor]
"""A parameter, its gradient, m and v."""


@dataclass(frozen=True)
class Update:
    """The numbers of one update of AdamW; `step` counts from 1."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    step: int


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Kingma & Ba, 2015; Loshchilov & Hutter, 2019).

        m ← β1·m + (1 - β1)·g                   mean of gradients
        v ← β2·v + (1 - β2)·g²                  mean of squared gradients
        p ← p - lr·λ·p - lr · (m / (1 - β1ᵗ)) / (sqrt(v / (1 - β2ᵗ)) + ε)

    Given the same gradients, it makes the updates of `torch.optim.AdamW`. State a parameter: `step`, `exp_avg` (m),
    `exp_avg_sq` (v), both like the parameter.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ):
        """`params`: parameters, or groups as for any torch optimizer. Raises `ValueError` for settings out of range."""
        if not (lr >= 0 and eps >= 0 and weight_decay >= 0 and all(0 <= beta < 1 for beta in betas)):
            raise ValueError(f"out of range: lr {lr}, betas {betas}, eps {eps}, weight_decay {weight_decay}")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    # torch wraps these such that their first call imports its compiler: a second and 70 MB, for nothing here.
    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update every parameter that has a gradient. Returns what `closure` returns, where one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for step, rows in self._rows(group).items():
                beta1, beta2 = group["betas"]
                update = Update(group["lr"], beta1, beta2, group["eps"], group["weight_decay"], step)
                (_fused if _fits(rows) else _by_hand)(rows, update)
        return loss

    def _rows(self, group: dict[str, Any]) -> dict[int, list[Row]]:
        """Parameters with gradients, these, m and v; by the number of their update, which is the same for most."""
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


def _fits(rows: Sequence[Row]) -> bool:
    return all(chunks.fits(*row) for row in rows)


def _fused(rows: Sequence[Row], update: Update) -> None:
    """One pass over memory, on a CPU."""
    step_size = update.lr / (1 - update.beta1**update.step)
    decay, correction2 = 1 - update.lr * update.weight_decay, 1 - update.beta2**update.step
    adamw(rows, step_size, decay, update.beta1, update.beta2, correction2, update.eps)


def _by_hand(rows: Sequence[Row], update: Update) -> None:
    """The formulas, each on all parameters at once, which spares a GPU thousands of kernel launches."""
    together: Any = torch  # whose operations on lists have no public names
    parameters, grads, means, squares = (list(column) for column in zip(*rows, strict=True))
    together._foreach_lerp_(means, grads, 1 - update.beta1)
    together._foreach_mul_(squares, update.beta2)
    together._foreach_addcmul_(squares, grads, grads, 1 - update.beta2)
    unbiased = together._foreach_div(squares, 1 - update.beta2**update.step)
    together._foreach_sqrt_(unbiased)
    together._foreach_add_(unbiased, update.eps)
    together._foreach_mul_(parameters, 1 - update.lr * update.weight_decay)
    together._foreach_addcdiv_(parameters, means, unbiased, -update.lr / (1 - update.beta1**update.step))


def decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: matrices, which decay, and gains and biases, which do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
