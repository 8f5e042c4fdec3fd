"""Opening a run, step by step: data, configuration, identity, hardware, model, and the newest checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from llamita.config import RunConfig
from llamita.errors import UserError
from llamita.parallel import Processes
from llamita.planning.choices import choose_steps
from llamita.planning.machine_memory import require_memory_for_weights
from llamita.runtime.hardware import choose_hardware
from llamita.train.build import Run, build_run
from llamita.train.display import Display
from llamita.train.identity import choose_directory, facts_before, tell_changes, with_choices_of, write_identity
from llamita.train.resolve import open_data, require_enough_sequences, resolve
from llamita.train.resume import resume


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
        before = facts_before(config, data, directory)
        processes.wait()  # nobody writes before all have read
        hardware = choose_hardware(with_choices_of(before, config, processes).run, processes)
        require_memory_for_weights(config, hardware.device, processes.local_world_size)
        choices = choose_steps(config, hardware, processes, before)
        chosen = {**hardware.choices, **choices.facts, "world_size": processes.world_size, "torch": torch.__version__}
        tell_changes(before, chosen, display)
        if processes.is_main:
            write_identity(config, data, directory, chosen)
        run = build_run(config, processes, hardware, data, directory, display, choices)
        resume(run)
        yield run
