"""How an update is cut into micro-batches: what fits into memory, and what is fastest. Found out before step 1."""

import math
from dataclasses import dataclass

import torch

from llamita.config import replace
from llamita.errors import UserError
from llamita.planning.memory import training_memory
from llamita.planning.room import available_memory
from llamita.train.build import Run
from llamita.train.steps import micro_batch_seconds

CLEARLY = 0.03  # faster by this share: else the larger micro-batch is taken, whose sums are cut less
SURELY = 0.25  # of free memory: what takes less by a rough estimate is not looked at more closely


@dataclass(frozen=True)
class Fit:
    """How many sequences a process computes at once, and why."""

    rows: int
    reason: str = ""


def choose_micro_batch(run: Run) -> Fit:
    """The micro-batch that is asked for, or, of those that fit, the fastest. Leaves the run as it was.

    Raises `UserError`, naming one that fits, where what is asked for does not.
    """
    share, wish = run.micro_batch_size, run.config.run.micro_batch_size
    if wish == "auto":
        if known := run.known.get("micro_batch_size"):
            return Fit(min(known, share), "as when the run began")
        return _fastest(run, share)
    rows = min(wish or share, share)
    if not all_fit(run, rows):
        raise UserError(_refusal(run, rows))
    return Fit(rows)


def all_fit(run: Run, rows: int) -> bool:
    """Whether micro-batches of so many sequences fit into memory, in every process."""
    return run.processes.max(not _fits(run, rows)) == 0


def _fastest(run: Run, share: int) -> Fit:
    """Try the whole share, its half and so on, as long as that is no slower."""
    seconds: dict[int, float] = {}  # of a sequence
    for rows in _halves(share):
        if not all_fit(run, rows):
            continue
        seconds[rows] = run.processes.max(micro_batch_seconds(run, rows)) / rows
        if seconds[rows] > (1 + CLEARLY) * min(seconds.values()):
            break
    if not seconds:
        raise UserError(_refusal(run, 1))
    best = max(rows for rows in seconds if seconds[rows] <= (1 + CLEARLY) * min(seconds.values()))
    tried = ", ".join(f"{rows}: {1 / value:,.1f}" for rows, value in seconds.items())
    return Fit(best, f"sequences a second on trial: {tried}")


def _halves(count: int) -> list[int]:
    sizes = [count]
    while sizes[-1] > 1:
        sizes.append(math.ceil(sizes[-1] / 2))
    return sizes


def _fits(run: Run, rows: int) -> bool:
    if run.hardware.device.startswith("cuda"):
        return _fits_on_gpu(run, rows)
    free = available_memory(run.hardware.device)
    if _roughly(run, rows) < SURELY * free:
        return True
    return _needed(run, rows) <= free


def _fits_on_gpu(run: Run, rows: int) -> bool:
    """Whether a trial of the full shape, and the optimizer's state beside it, fit."""
    device = run.hardware.device
    try:
        micro_batch_seconds(run, rows)
    except torch.OutOfMemoryError:
        return False
    finally:
        run.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
    state = 0 if run.optimizer.state else 8 * run.num_parameters
    return torch.cuda.max_memory_reserved(device) + state <= torch.cuda.get_device_properties(device).total_memory


def _roughly(run: Run, rows: int) -> float:
    """Bytes, more rather than less: weights, gradients, m and v; 64 numbers of fp32 a layer and width of each token."""
    model = run.config.model
    tokens = rows * model.max_seq_len
    return 20 * run.num_parameters + 4 * tokens * (64 * model.hidden_size * model.num_layers + 4 * model.vocab_size)


def _needed(run: Run, rows: int) -> float:
    """Bytes that an update takes besides the weights and the optimizer's state, which are there already."""
    peak = training_memory(replace(run.config, micro_batch_size=rows), run.hardware).peak
    return peak - run.num_parameters * (12 if run.optimizer.state else 4)


def _refusal(run: Run, rows: int) -> str:
    smaller = next((size for size in _halves(rows)[1:] if all_fit(run, size)), None)
    what = f"micro-batches of {rows:,} sequences x {run.config.model.max_seq_len:,} tokens do not fit into memory"
    if not run.hardware.device.startswith("cuda"):
        gigabytes = _needed(run, rows) / 1e9
        what += (
            f": they need about {gigabytes:,.1f} GB, and {available_memory(run.hardware.device) / 1e9:,.1f} GB are free"
        )
    if smaller is None:
        return f"{what}, and one sequence at a time does not either: choose a smaller model, or lower --max_seq_len"
    return f"{what}: use --micro_batch_size {smaller} (the update stays the same), or auto"
