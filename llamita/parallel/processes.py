"""The processes that train one model together. Everything else asks here, and works the same with one.

They find one another as torchrun has it: by RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
`launch.py` starts them where torchrun does not.
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

PATIENCE = timedelta(days=1)  # one process prepares data, saves and writes samples, while the others wait
MEETING = timedelta(minutes=10)  # by then the process that keeps the store has to be there
FAILURE = "llamita/failure"  # where in the store the first process that failed says why
FIRST_ATTEMPT = "attempt 0"
MEND = "start with torchrun, or unset WORLD_SIZE and use --world_size"


@dataclass(frozen=True)
class Processes:
    """This process's place: number `rank` of the `world_size` of the run, and the same among those of this machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

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
        return value if self.world_size == 1 else self._reduced(value, dist.ReduceOp.SUM)

    def max(self, value: float | int) -> float:
        """The largest of the numbers of all processes."""
        return value if self.world_size == 1 else self._reduced(value, dist.ReduceOp.MAX)

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in its place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.max(0)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process goes through the block, then all others together: they find what it wrote."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    def unsynchronised(self, model: nn.Module, but_the_last: bool) -> AbstractContextManager[None]:
        """Around every micro-batch but the last one: add up gradients here before they are exchanged."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) and not but_the_last else nullcontext()

    def _reduced(self, value: float, operation: dist.ReduceOp.RedOpType) -> float:
        # On the CPU, where gloo does it, also in runs on GPUs: nobody waits for what is under way there.
        total = torch.tensor(float(value), dtype=torch.float64)
        dist.all_reduce(total, operation)
        return total.item()


def started_processes() -> int | None:
    """How many processes torchrun, or llamita itself, started to train together; None where neither did.

    Raises `UserError` where the environment says so in part only, or what cannot be.
    """
    if "WORLD_SIZE" not in os.environ:
        return None
    if (world_size := _number("WORLD_SIZE")) != 1:
        _check_environment()
    return world_size


def is_main_process() -> bool:
    """Whether this process is the one that prints; known before, and after, the processes have found one another."""
    return started_processes() in (None, 1) or _number("RANK") == 0


@contextmanager
def processes_from_environment() -> Iterator[Processes]:
    """The processes that were started together, or this one alone.

    Where one fails, all end: its exception goes on, and the others, which fail because they lost it, leave silently
    with exit code 1.
    """
    if started_processes() in (None, 1):
        yield Processes()
        return
    store, (rank, world_size, *local) = meeting_store(), _place()
    dist.init_process_group(_backend(), store=store, rank=rank, world_size=world_size, timeout=PATIENCE)
    processes = Processes(rank, world_size, *local)
    try:
        yield processes
    except (Exception, SystemExit) as error:
        # The group is left as it is: to take it apart under a DDP that the traceback still holds may hang.
        if first_to_fail(store, error) or isinstance(error, SystemExit):
            raise
        raise SystemExit(1) from None
    processes.wait()
    dist.destroy_process_group()


def meeting_store() -> Store:
    """Where the processes leave words for one another; kept by who started them, else by the first of them."""
    rank, kept_for_us = _place()[0], os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    main = rank == 0 and not kept_for_us
    try:
        store = TCPStore(address, port, is_master=main, timeout=MEETING, wait_for_workers=False)
    except dist.DistError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no meeting at MASTER_ADDR {address}, MASTER_PORT {port} ({reason}): {MEND}") from None
    store.set_timeout(PATIENCE)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT")
    return PrefixStore(f"attempt {attempt}" if attempt else FIRST_ATTEMPT, store)


def first_to_fail(store: Store, error: BaseException) -> bool:
    """Write down why this process failed, unless another one did so before. A store that is gone was lost with it."""
    kind = type(error).__name__
    text = str(error) if isinstance(error, UserError | SystemExit) else "".join(traceback.format_exception(error))
    with suppress(RuntimeError):
        if store.add(f"{FAILURE}/count", 1) == 1:
            store.set(FAILURE, json.dumps({"rank": _place()[0], "kind": kind, "text": text}))
            return True
    return False


def _check_environment() -> None:
    """Raise `UserError` where what torchrun sets is there in part only, or cannot be."""
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE is set, but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not: {MEND}"
        )
    rank, world_size, *_ = _place()
    if rank >= world_size:
        raise UserError(f"RANK is {rank}, but WORLD_SIZE {world_size}, and ranks count from 0: {MEND}")
    if _number("MASTER_PORT") >= 2**16:
        raise UserError(f"MASTER_PORT is {_number('MASTER_PORT')}, but ports end at 65535: {MEND}")


def _number(name: str, default: int | None = None) -> int:
    """The number in an environment variable. Raises `UserError` where there is none."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UserError(f"the environment variable {name} is {text!r}, but must be a number: {MEND}")
    return int(text)


def _place() -> tuple[int, int, int, int]:
    """Rank and world size, and the same among the processes of this machine; where these are not told, all are here."""
    rank, world_size = _number("RANK"), _number("WORLD_SIZE")
    return rank, world_size, _number("LOCAL_RANK", rank), _number("LOCAL_WORLD_SIZE", world_size)


def _backend() -> str:
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
