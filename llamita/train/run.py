"""Opening a run, step by step: data, configuration, identity, hardware, model, and the newest checkpoint."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import torch

from llamita.code_digest import running_code
from llamita.config import RunConfig
from llamita.errors import UserError
from llamita.model import Llama
from llamita.parallel import Processes
from llamita.planning.choices import StepChoices, choose_steps
from llamita.planning.length import Length
from llamita.planning.machine_memory import require_memory_for_weights
from llamita.runtime.hardware import Hardware, choose_hardware
from llamita.runtime.processor import processor_name
from llamita.runtime.rounding import product_digest
from llamita.train.build import Run, build_run
from llamita.train.directory_choice import choose_directory
from llamita.train.display import Display
from llamita.train.identity import Facts, facts_before, tell_changes, with_choices_of, write_identity
from llamita.train.recorded_code import code_facts, record_code_change, recorded_code
from llamita.train.repeating import choices_to_repeat, lengths_to_repeat, recorded_lengths
from llamita.train.resolve import open_data, require_enough_sequences, resolve
from llamita.train.resume import resume


@contextmanager
def open_run(
    config: RunConfig,
    processes: Processes,
    display: Display,
    repeated: str | Path | None = None,
    model_class: type[Llama] = Llama,
) -> Iterator[Run]:
    """The run that `config` describes, from its beginning or from its newest good checkpoint; locked while it is open.

    A new run makes the same choices for `auto` as the run whose config.toml `repeated` names.
    Raises `UserError` where the directory holds a run of another identity or of other code, or another process trains
    there.
    """
    if config.run.extend and not config.run.output_dir:
        raise UserError("--extend needs --output_dir: a run with another max_steps has another directory by default")
    display = display if processes.is_main else Display(quiet=True)
    data = open_data(config, processes, display)
    epochs_requested, config = config.training.epochs > 0, resolve(config, data)
    require_enough_sequences(config, processes.world_size)
    directory = choose_directory(config, data, processes, display)
    with directory.lock() if processes.is_main else nullcontext():
        before = facts_before(directory, running_code())
        processes.barrier()  # no process writes before all have read
        known = before or choices_to_repeat(config, repeated, display)
        lengths = recorded_lengths(before) if before else lengths_to_repeat(config, data, repeated if known else None)
        hardware = choose_hardware(with_choices_of(known, config, processes).run, processes, config.model)
        require_memory_for_weights(config, hardware.device, processes.local_world_size)
        choices = choose_steps(config, hardware, processes, known)
        chosen = _chosen(hardware, choices, processes)
        tell_changes(known, chosen, display)
        if processes.is_main:
            code = recorded_code(before) if before else code_facts(running_code())
            write_identity(config, data, directory, {**chosen, **code, **lengths})
        run = build_run(config, processes, hardware, data, directory, display, choices, model_class)
        run.epochs_requested = epochs_requested
        run.replayed = Length.of(lengths.get("replayed_lengths", ()))
        resume(run)
        if processes.is_main and before and not run.is_finished:
            record_code_change(directory, before, running_code(), run.state.step)
        with closing(run.tracking):
            if processes.is_main:
                run.tracking.start(config.run.track, directory, config.tables(), display.say)
            yield run


def _chosen(hardware: Hardware, choices: StepChoices, processes: Processes) -> Facts:
    """Everything that decides how a run rounds, by name: recorded, and compared when the run resumes."""
    places = {"world_size": processes.world_size, "processor": processor_name(hardware.device)}
    versions = {"torch": torch.__version__, "rounding": product_digest(hardware)}
    return {**hardware.choices, **choices.facts, **places, **versions}
