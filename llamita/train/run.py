"""Opening a run, step by step: data, configuration, identity, hardware, model, and the newest checkpoint."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from llamita.config import RunConfig
from llamita.data import Dataset
from llamita.errors import UserError
from llamita.parallel import Processes
from llamita.planning.room import require_room_for_weights
from llamita.runtime.blocks import choose_blocks
from llamita.runtime.hardware import Hardware, choose_hardware
from llamita.train.build import Run, build_run
from llamita.train.display import Display
from llamita.train.identity import Facts, choose_directory, facts_before, tell_changes, with_choices_of, write_identity
from llamita.train.resolve import open_data, require_enough_sequences, resolve
from llamita.train.resume import resume
from llamita.train.run_directory import RunDirectory

LATER = "compile", "micro_batch_size", "attention_block", "head_block"
"""Facts that are found out when the model is there (`preparation.py`)."""


@contextmanager
def open_run(config: RunConfig, processes: Processes, display: Display) -> Iterator[Run]:
    """The run that `config` describes, from its beginning or from its newest good checkpoint; locked while it is open.

    Raises `UserError` where the directory holds a run of another identity, or another process trains there.
    """
    if config.run.extend and not config.run.output_dir:
        raise UserError("--extend needs --output_dir: a run with another max_steps has another directory by default")
    display = display if processes.is_main else Display(quiet=True)
    data = open_data(config, processes, display)
    config = resolve(config, data)
    require_enough_sequences(config, processes.world_size)
    directory = choose_directory(config, data)
    with directory.lock() if processes.is_main else nullcontext():
        with processes.main_first():
            before = facts_before(config, data, directory)
            hardware = _begin(config, data, directory, before, processes, display)
        require_room_for_weights(config.model, hardware.device)
        batch_size = math.ceil(config.training.batch_size / processes.world_size)
        hardware = choose_blocks(hardware, config.run, config.model, batch_size, before, processes)
        run = build_run(config, processes, hardware, data, directory, display, before)
        resume(run)
        yield run


def _begin(
    config: RunConfig, data: Dataset, directory: RunDirectory, before: Facts, processes: Processes, display: Display
) -> Hardware:
    """Decide where the run is computed, and write it down."""
    hardware = choose_hardware(with_choices_of(before, config, processes).run, processes)
    chosen = {**hardware.choices, "world_size": processes.world_size, "torch": torch.__version__}
    if before:
        tell_changes(before, chosen, display)
    if processes.is_main:
        write_identity(config, data, directory, {**chosen, **{name: before[name] for name in LATER if name in before}})
    return hardware
