"""Opening a run, step by step: data, configuration, identity, hardware, model, and the newest checkpoint."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from llamita.code_digest import running_code
from llamita.config import RunConfig
from llamita.data import Dataset
from llamita.errors import UserError
from llamita.parallel import Processes
from llamita.planning.room import require_room_for_weights
from llamita.runtime.blocks import choose_blocks
from llamita.runtime.hardware import Hardware, choose_hardware
from llamita.runtime.processor import processor_name
from llamita.train.build import Run, build_run
from llamita.train.directory_choice import choose_directory
from llamita.train.display import Display
from llamita.train.identity import Facts, facts_before, tell_changes, with_choices_of, write_identity
from llamita.train.recorded_code import code_facts, is_same_code, with_code_change
from llamita.train.repeating import choices_to_repeat
from llamita.train.resolve import open_data, require_enough_sequences, resolve
from llamita.train.resume import resume
from llamita.train.run_directory import RunDirectory

KEPT = "code_digest", "code", "code_changes", "compile", "micro_batch_size", "attention_block", "head_block"
"""Facts of a run that goes on which are kept as they are until the model is there (`preparation.py`, `resume`)."""


@contextmanager
def open_run(config: RunConfig, processes: Processes, display: Display) -> Iterator[Run]:
    """The run that `config` describes, from its beginning or from its newest good checkpoint; locked while it is open.

    Raises `UserError` where the directory holds a run of another identity or of other code, or another process trains
    there.
    """
    if config.run.extend and not config.run.output_dir:
        raise UserError("--extend needs --output_dir: a run with another max_steps has another directory by default")
    display = display if processes.is_main else Display(quiet=True)
    data = open_data(config, processes, display)
    config = resolve(config, data)
    require_enough_sequences(config, processes.world_size)
    directory = choose_directory(config, data, processes, display)
    with directory.lock() if processes.is_main else nullcontext():
        with processes.main_first():
            before = facts_before(directory, running_code())
            known = {**choices_to_repeat(config, Display(quiet=True) if before else display), **before}
            hardware = choose_hardware(with_choices_of(known, config, processes).run, processes)
            if processes.is_main:
                _write_down(config, data, directory, before, hardware, processes, display)
        require_room_for_weights(config.model, hardware.device)
        batch_size = math.ceil(config.training.batch_size / processes.world_size)
        hardware = choose_blocks(hardware, config.run, config.model, batch_size, known, processes)
        run = build_run(config, processes, hardware, data, directory, display, before, known)
        resume(run)
        _record_change_of_code(run)
        yield run


def _write_down(
    config: RunConfig,
    data: Dataset,
    directory: RunDirectory,
    before: Facts,
    hardware: Hardware,
    processes: Processes,
    display: Display,
) -> None:
    """Write the identity of the run and where it is computed, and say what of that has changed since it began."""
    places = {"world_size": processes.world_size, "processor": processor_name(hardware.device)}
    chosen = {**hardware.choices, **places, "torch": torch.__version__}
    if before:
        tell_changes(before, chosen, display)
    kept = {name: before[name] for name in KEPT if name in before} if before else code_facts(running_code())
    write_identity(config, data, directory, {**chosen, **kept})


def _record_change_of_code(run: Run) -> None:
    """Write down where the run goes on with other code than before, or with code where none was recorded."""
    facts, files = run.facts_before, running_code()
    goes_on = run.state.step < run.config.training.max_steps
    if run.processes.is_main and facts and goes_on and not is_same_code(facts, files):
        run.directory.add_facts(with_code_change(facts, files, run.state.step))
