"""llamita's model, optimizer and batches for a training step, for this and older versions of llamita."""

import importlib
from functools import partial
from pathlib import Path
from typing import Any, cast

# llamita first: the environment variables it sets have no effect once torch is loaded.
import llamita  # isort: skip
import torch
from torch import Tensor

from training.inputs import load_weights, read_order, read_tokens
from training.peer_models import MAX_NORM, OPTIMIZER, Implementation, can_compile
from training.shapes import Task


def llamita_model(task: Task) -> Implementation:
    """The model of `llamita train` on the hardware that llamita chooses.

    Only the public interface that old and new versions share is used; `choose_hardware` below is the exception.
    """
    from llamita.model import Llama
    from llamita.optim import AdamW, clip_grad_norm_

    hardware = choose_hardware(task)
    model = Llama(task.shape.model_config())
    load_weights(model, task.folder)
    model = hardware.apply(model)
    compiled = task.compiled and can_compile()
    run = torch.compile(model, dynamic=False) if compiled else model

    def loss(ids: Tensor, targets: Tensor) -> Tensor:
        with hardware.autocast():
            return run(ids, targets)

    parameters = list(model.parameters())
    clip = partial(clip_grad_norm_, parameters, MAX_NORM)
    chosen = {"threads": hardware.threads, "precision": hardware.precision, "device": hardware.device}
    facts = {**chosen, "compiled": compiled, "source": str(Path(llamita.__file__).resolve().parents[1])}
    return Implementation(model, loss, AdamW(parameters, **OPTIMIZER), clip, _batches(task), facts)


def choose_hardware(task: Task) -> Any:
    """The hardware that llamita chooses for a task. This function alone supports the layouts of older versions.

    They had `choose_hardware` in `llamita.machine`, without a model argument, and autotuned the block sizes of their
    kernels in `choose_blocks` before step 1. Now kernels choose their block sizes themselves.
    """
    from llamita.config import ExecutionConfig

    execution = ExecutionConfig(device=task.device, threads=task.threads, precision=cast(Any, task.precision))
    config = task.shape.model_config()
    if new := _module("llamita.runtime.hardware"):
        return new.choose_hardware(execution, model=config)
    hardware = _module("llamita.machine.hardware").choose_hardware(execution)
    blocks = _module("llamita.machine.blocks")
    return blocks.choose_blocks(hardware, execution, config, task.shape.batch_size) if blocks else hardware


def _module(name: str) -> Any:
    """The module of this name; None if this version of llamita has none."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):  # a dependency of the module is missing
            raise
        return None


class _Tokens:
    """The tokens in the folder, with the interface of llamita's token files."""

    end_id = None

    def __init__(self, folder: Path):
        self.path, self.ids = folder / "tokens.npy", read_tokens(folder)

    def __len__(self) -> int:
        return len(self.ids)


def _batches(task: Task) -> Any:
    """Step -> ids and targets, (batch, seq) each, from llamita's own windows."""
    from llamita.data import IGNORED, StreamWindows, TokenFile

    windows = StreamWindows(cast(TokenFile, _Tokens(task.folder)), task.shape.max_seq_len)
    order = read_order(task.folder)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        ids, targets, _ = windows.batch(order[step % len(order)]).to(task.device)
        targets[:, -1] = IGNORED  # as in transformers, which derives targets from ids
        return ids, targets

    return batch
