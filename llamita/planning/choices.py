"""How the steps of a run are computed: micro-batch size and compilation, decided before the model is built."""

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
    """How the steps of a run are computed, and the reason where `auto` decided."""

    micro_batch_size: int
    """Sequences per forward and backward pass of a process."""
    compile: Kind = "off"
    micro_batch_reason: str = ""
    compile_reason: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """The choices by name, as a run records them."""
        return {"micro_batch_size": self.micro_batch_size, "compile": self.compile}


def choose_steps(
    config: RunConfig, hardware: Hardware, processes: Processes, before: Mapping[str, Any] | None = None
) -> StepChoices:
    """Resolve `auto` for the steps. `before`: the facts recorded when the run began, whose choices are made again.

    Nothing is timed, and free memory is not read: the choices are a function of the configuration and the machine.
    Raises `UserError` if what the user requested does not fit into memory, or cannot be compiled.
    """
    before = before or {}
    rows, micro_batch_reason = choose_micro_batch(config, hardware, processes, before.get("micro_batch_size"))
    kind, compile_reason = choose_compile(config, hardware, processes.world_size, before.get("compile"))
    if kind == "graphs":
        micro_batches = math.ceil(config.training.sequences_per_update / processes.world_size / rows)
        require_graphs(hardware.device, micro_batches, processes.world_size)
    return StepChoices(rows, kind, micro_batch_reason, compile_reason)
