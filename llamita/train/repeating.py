"""Repeating a run: what `auto` chose in it is chosen again, since another choice would round differently."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamita.config import RunConfig, read_toml
from llamita.runtime.processor import processor_name
from llamita.train.display import Display
from llamita.train.recorded_code import code_difference

CHOICES = "device", "precision", "threads", "kernels", "compile", "micro_batch_size", "world_size"
"""Facts that say how a run rounds. Where a setting is not `auto`, it wins over the fact."""


def choices_to_repeat(config: RunConfig, display: Display) -> dict[str, Any]:
    """What `auto` chose in the run whose config.toml `config.run.choices_of` names; empty where that does not fit here.

    It fits where the model has the same shape and the processor is of the same kind. `display` says what is chosen
    anew, and why. Raises `UserError` where the file cannot be read.
    """
    file = config.run.choices_of
    if not file:
        return {}
    facts = read_toml(file).get("facts", {})
    if difference := code_difference(facts):
        display.say(f"{difference}: {Path(file)} is repeated with that of today")
    if reason := _misfit(config, facts, file):
        display.say(f"note: {reason}, so what was automatic in {Path(file)} is chosen anew")
        return {}
    return {name: facts[name] for name in CHOICES if name in facts}


def _misfit(config: RunConfig, facts: Mapping[str, Any], file: str) -> str | None:
    """Why the choices of the run in `file` do not fit here; None where they do."""
    if RunConfig.from_toml(file).model != config.model:
        return "the model has another shape"
    device = facts.get("device", "cpu") if config.run.device == "auto" else config.run.device
    here, there = processor_name(device) or f"no {device}", facts.get("processor", "unknown")
    return f"the processor is another ({here}, not {there})" if here != there else None
