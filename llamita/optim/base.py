"""The optimizer interface, which adds planning to torch's; and setting the learning rate of all groups."""

import inspect
from abc import ABC, abstractmethod

import torch


class Optimizer(torch.optim.Optimizer, ABC):
    """A torch optimizer that knows the size of its state, so that memory can be planned before the first step.

    A checkpoint stores the state of each parameter under its name: tensors of the parameter's shape, and scalars.
    """

    # torch wraps these so that the first call imports its compiler: a second and 70 MB, for nothing here.
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)

    @abstractmethod
    def state_bytes(self) -> int:
        """Bytes of the tensors in `state` after every parameter has been updated; known before the first step."""


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of each group to `learning_rate` times its `lr_multiplier` (default 1)."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_multiplier", 1.0)
