"""The processes that train one model together. All other code uses `Processes`, and works the same with one process.

They rendezvous as under torchrun, by RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
`launch.py` sets these variables where torchrun does not.
"""

import json
import os
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]  (documented)
from torch.nn.parallel import DistributedDataParallel

from llamita.errors import UserError

TIMEOUT = timedelta(days=1)  # the others wait while one process prepares data, saves and samples
RENDEZVOUS_TIMEOUT = timedelta(minutes=10)  # to connect to the process that hosts the store
FAILURE = "llamita/failure"  # key in the store: why the first process that failed did so
FIRST_ATTEMPT = "attempt 0"
HINT = "start with torchrun, or unset WORLD_SIZE and use --world_size"


@dataclass(frozen=True)
class Processes:
    """The rank of this process among the `world_size` processes of the run, and among those of this machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's share of `count` rows: contiguous, as even as possible, disjoint over processes."""
        return slice(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model`, in DDP if there are several processes: each backward pass averages gradients over them."""
        return model if self.world_size == 1 else DistributedDataParallel(model)

    def sum(self, value: float | int) -> float:
        """The sum of a number over all processes, exact for integers below 2⁵³."""
        return value if self.world_size == 1 else self._reduced(value, dist.ReduceOp.SUM)

    def max(self, value: float | int) -> float:
        """The maximum of a number over all processes."""
        return value if self.world_size == 1 else self._reduced(value, dist.ReduceOp.MAX)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        """Wait until all processes get here."""
        self.max(0)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process runs the block first, then all others do, and find what it wrote."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """Accumulate gradients without all-reducing them, for all micro-batches of an update but the last."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def _reduced(self, value: float, operation: dist.ReduceOp.RedOpType) -> float:
        # On the CPU, by gloo, also in runs on GPUs: this does not wait for their kernels.
        total = torch.tensor(float(value), dtype=torch.float64)
        dist.all_reduce(total, operation)
        return total.item()


def started_processes() -> int | None:
    """How many processes torchrun, or llamita itself, launched to train together; None if neither did.

    Raises `UserError` if the environment variables are incomplete or invalid.
    """
    if "WORLD_SIZE" not in os.environ:
        return None
    if (world_size := _number("WORLD_SIZE")) != 1:
        _check_environment()
    return world_size


def is_main_process() -> bool:
    """Whether this process is the one that prints, also outside `processes_from_environment`."""
    return started_processes() in (None, 1) or _number("RANK") == 0


@contextmanager
def processes_from_environment() -> Iterator[Processes]:
    """The processes that were launched together, or this one alone.

    If one fails, all end: its exception propagates, and the others, which fail because they lost it, exit silently
    with code 1.
    """
    if started_processes() in (None, 1):
        yield Processes()
        return
    store, (rank, world_size, *local) = rendezvous_store(), _ranks()
    dist.init_process_group(_backend(), store=store, rank=rank, world_size=world_size, timeout=TIMEOUT)
    processes = Processes(rank, world_size, *local)
    try:
        yield processes
    except (Exception, SystemExit) as error:
        # The group is not destroyed: under a DDP that the traceback still references, that may hang.
        if report_failure(store, error) or isinstance(error, SystemExit):
            raise
        raise SystemExit(1) from None
    processes.barrier()
    dist.destroy_process_group()


def rendezvous_store() -> Store:
    """The key-value store that the processes share; hosted by the launcher, else by rank 0."""
    rank, has_host = _ranks()[0], os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    is_host = rank == 0 and not has_host
    try:
        store = TCPStore(address, port, is_master=is_host, timeout=RENDEZVOUS_TIMEOUT, wait_for_workers=False)
    except dist.DistError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no rendezvous at MASTER_ADDR {address}, MASTER_PORT {port} ({reason}): {HINT}") from None
    store.set_timeout(TIMEOUT)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT")
    return PrefixStore(f"attempt {attempt}" if attempt else FIRST_ATTEMPT, store)


def report_failure(store: Store, error: BaseException) -> bool:
    """Record why this process failed, unless another one failed first; a store that is gone failed with its host."""
    kind = type(error).__name__
    text = str(error) if isinstance(error, UserError | SystemExit) else "".join(traceback.format_exception(error))
    with suppress(RuntimeError):
        if store.add(f"{FAILURE}/count", 1) == 1:
            store.set(FAILURE, json.dumps({"rank": _ranks()[0], "kind": kind, "text": text}))
            return True
    return False


def _check_environment() -> None:
    """Raise `UserError` if the variables that torchrun sets are incomplete or invalid."""
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE is set, but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not: {HINT}"
        )
    rank, world_size, *_ = _ranks()
    if rank >= world_size:
        raise UserError(f"RANK is {rank}, but WORLD_SIZE is {world_size}, and ranks count from 0: {HINT}")
    if _number("MASTER_PORT") >= 2**16:
        raise UserError(f"MASTER_PORT is {_number('MASTER_PORT')}, but the highest port is 65535: {HINT}")


def _number(name: str, default: int | None = None) -> int:
    """The number in an environment variable. Raises `UserError` if it is not a number."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UserError(f"the environment variable {name} is {text!r}, but must be a number: {HINT}")
    return int(text)


def _ranks() -> tuple[int, int, int, int]:
    """Rank, world size, local rank, local world size; without the local ones, all processes are on this machine."""
    rank, world_size = _number("RANK"), _number("WORLD_SIZE")
    return rank, world_size, _number("LOCAL_RANK", rank), _number("LOCAL_WORLD_SIZE", world_size)


def _backend() -> str:
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
