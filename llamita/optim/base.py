"""What llamita asks of an optimizer besides what torch does; and the learning rate, set for all its groups."""

import inspect
from abc import ABC, abstractmethod

import torch


class Optimizer(torch.optim.Optimizer, ABC):
    """A torch optimizer that knows the size of its state, so that memory is planned before there is any.

    A checkpoint holds the state of each parameter under its name: tensors of the parameter's shape, and counts.
    """

    # torch wraps these such that their first call imports its compiler: a second and 70 MB, for nothing here.
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)

    @abstractmethod
    def state_bytes(self) -> int:
        """Bytes of the tensors in `state` once every parameter was updated; known before the first step."""


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give each parameter group its rate: `learning_rate` times the group's `lr_multiplier`, 1 where it has none."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_multiplier", 1.0)
