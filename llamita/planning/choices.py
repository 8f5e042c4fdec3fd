"""How the steps of a run are computed: micro-batches and compiling, decided before the model is made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llamita.config import RunConfig
from llamita.parallel import Processes
from llamita.planning.compile_choice import choose_compile
from llamita.planning.micro_batch import choose_micro_batch
from llamita.runtime.compiling import Kind, require_graphs
from llamita.runtime.hardware import Hardware


@dataclass(frozen=True)
class StepChoices:
    """How the steps of a run are computed, and why where nobody asked for it."""

    micro_batch_size: int
    """Sequences that a process computes at once."""
    compile: Kind = "off"
    micro_batch_reason: str = ""
    compile_reason: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """What was chosen, by name: as a run writes it down."""
        return {"micro_batch_size": self.micro_batch_size, "compile": self.compile}


def choose_steps(
    config: RunConfig, hardware: Hardware, processes: Processes, before: Mapping[str, Any] | None = None
) -> StepChoices:
    """Decide every `auto` of the steps. `before`: the facts of when the run began; what auto chose then, it keeps.

    Nothing is timed, and free memory is not looked at: the choices are a function of the configuration and the machine.
    Raises `UserError` for what is asked for but does not fit into memory, or cannot be compiled.
    """
    before = before or {}
    rows, micro_batch_reason = choose_micro_batch(config, hardware, processes, before.get("micro_batch_size"))
    kind, compile_reason = choose_compile(config, hardware, processes.world_size, before.get("compile"))
    if kind == "graphs":
        micro_batches = math.ceil(config.training.sequences_per_update / processes.world_size / rows)
        require_graphs(hardware.device, micro_batches, processes.world_size)
    return StepChoices(rows, kind, micro_batch_reason, compile_reason)
