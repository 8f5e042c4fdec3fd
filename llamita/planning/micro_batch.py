"""The micro-batch size: the largest that fits into memory, by the estimate."""

import math
from collections.abc import Iterator

from llamita.config import RunConfig, replace
from llamita.errors import UserError
from llamita.parallel import Processes
from llamita.planning.machine_memory import free_memory, memory_limit
from llamita.planning.memory import count_parameters, optimizer_state_bytes, training_memory
from llamita.runtime.hardware import Hardware

CERTAIN = 0.25  # of the limit: below it, the rough upper bound is enough, and saves the estimate


def choose_micro_batch(
    config: RunConfig, hardware: Hardware, processes: Processes, known: int | None = None
) -> tuple[int, str]:
    """The micro-batch size of each process, and the reason: the requested one, or for auto the largest that fits.

    A pure function of the configuration, the device and its total memory: micro-batch sizes round differently, so the
    choice depends neither on timing nor on free memory. `known`: what auto chose when the run began, and chooses again.
    Raises `UserError` if the requested size does not fit, naming one that does.
    """
    share, requested = math.ceil(config.training.batch_size / processes.world_size), config.run.micro_batch_size
    if requested == "auto" and known:
        return min(known, share), "as when the run began"
    limit = memory_limit(hardware.device, processes.local_world_size)

    def fits(rows: int) -> bool:
        exceeded = needed_memory(config, hardware, rows, enough=CERTAIN * limit) > limit
        return processes.max(exceeded) == 0  # processes on other machines may have less

    rows = share if requested == "auto" else min(requested or share, share)
    if fits(rows):
        return rows, ""
    smaller = next((size for size in _halves(rows) if fits(size)), None)
    if requested != "auto" or smaller is None:
        raise UserError(_refusal(config, rows, smaller, needed_memory(config, hardware, rows), limit))
    return smaller, "the largest that fits into memory"


def needed_memory(config: RunConfig, hardware: Hardware, rows: int, enough: float = 0.0) -> float:
    """Peak bytes of training in micro-batches of `rows` sequences, as estimated in `memory.py`.

    The estimate runs a step on FakeTensors, which takes a second. If a rough upper bound is below `enough`, returns
    that bound instead.
    """
    bound = _upper_bound(config, rows)
    if bound < enough:
        return bound
    return training_memory(replace(config, micro_batch_size=rows), hardware).peak


def warn_of_full_memory(config: RunConfig, hardware: Hardware, rows: int) -> str | None:
    """A warning if less memory is free now than training needs. No choice depends on it."""
    free = free_memory(hardware.device)
    needed = needed_memory(config, hardware, rows, enough=CERTAIN * free)
    if needed <= free:
        return None
    return (
        f"warning: training needs about {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free now: close "
        "other programs, or the system may become slow or kill this one"
    )


def _halves(count: int) -> Iterator[int]:
    """Half of `count`, rounded up, half of that, and so on down to 1."""
    while count > 1:
        count = math.ceil(count / 2)
        yield count


def _upper_bound(config: RunConfig, rows: int) -> float:
    """An upper bound in bytes: the parameters, and 64 fp32 numbers per layer, channel and token."""
    model = config.model
    parameters, tokens = sum(count_parameters(model).values()), rows * model.max_seq_len
    held = 12 * parameters + optimizer_state_bytes(config)  # weights, gradients, and a temporary of that size
    return held + 4 * tokens * (64 * model.hidden_size * model.num_layers + 4 * model.vocab_size)


def _refusal(config: RunConfig, rows: int, smaller: int | None, needed: float, limit: float) -> str:
    what = (
        f"micro-batches of {rows:,} sequences x {config.model.max_seq_len:,} tokens do not fit into memory: they need "
        f"about {needed / 1e9:,.1f} GB, and a process may use {limit / 1e9:,.1f} GB here"
    )
    if smaller is None:
        return f"{what}, and even one sequence does not fit: choose a smaller model, or lower --max_seq_len"
    return f"{what}: use --micro_batch_size {smaller} (the update stays the same), or auto"
