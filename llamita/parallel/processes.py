"""The processes that train one model together. Everything else asks here, and works the same with one."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """This process's place among those of the run: number `rank` of `world_size`."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of `count` rows: neighbours, as even as it goes, all rows over all processes."""
        return slice(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model`, made such that its gradients are averaged over the processes in each backward pass."""
        return model if self.world_size == 1 else DistributedDataParallel(model)

    def sum(self, value: float | int) -> float:
        """The sum of a number over all processes, exact for whole numbers below 2⁵³."""
        if self.world_size == 1:
            return value
        total = torch.tensor(float(value), dtype=torch.float64)
        dist.all_reduce(total)
        return total.item()

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in its place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def unsynchronised(self, model: nn.Module, but_the_last: bool) -> AbstractContextManager[None]:
        """Around every micro-batch but the last one: add up gradients here before they are exchanged."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) and not but_the_last else nullcontext()


@contextmanager
def processes_from_environment(backend: str = "gloo") -> Iterator[Processes]:
    """The processes that torchrun started (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), or this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    dist.init_process_group(backend)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
