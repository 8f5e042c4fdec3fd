"""Repeating a run: `auto` makes the same choices again, since other choices would round differently."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamita.config import RunConfig, read_toml
from llamita.data import Dataset
from llamita.runtime.processor import processor_name
from llamita.train.display import Display
from llamita.train.recorded_code import code_difference

CHOICES = "device", "precision", "threads", "kernels", "compile", "micro_batch_size", "world_size", "rounding"
"""Facts that determine how a run rounds. A setting other than `auto` overrides the fact. `rounding` is none, but
only compared."""


def choices_to_repeat(config: RunConfig, file: str | Path | None, display: Display) -> dict[str, Any]:
    """What `auto` chose in the run whose config.toml is `file`; empty without a file, or if the choices do not apply.

    They apply if the model has the same shape and the processor is of the same kind. If not, `display` says why.
    Raises `UserError` if the file cannot be read.
    """
    if file is None:
        return {}
    facts = read_toml(file).get("facts", {})
    if difference := code_difference(facts):
        display.say(f"{difference}: {Path(file)} is repeated with the current code")
    if reason := _misfit(config, facts, file):
        display.say(f"note: {reason}, so `auto` chooses again, not as in {Path(file)}")
        return {}
    return {name: facts[name] for name in CHOICES if name in facts}


def lengths_to_repeat(config: RunConfig, data: Dataset, file: str | Path | None) -> dict[str, Any]:
    """The fact `replayed_lengths`: the plans of the run whose config.toml is `file`, if that had a budget of minutes.

    Empty if `config` and `data` describe another run, which needs plans of its own.
    """
    if file is None or RunConfig.from_toml(file).identity() != config.identity():
        return {}
    facts = read_toml(file).get("facts", {})
    if "lengths" not in facts or facts.get("data_fingerprint") != data.fingerprint:
        return {}
    return {"replayed_lengths": facts["lengths"]}


def recorded_lengths(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts about the plans of a run with a budget, unchanged."""
    return {name: facts[name] for name in ("lengths", "replayed_lengths") if name in facts}


def _misfit(config: RunConfig, facts: Mapping[str, Any], file: str | Path) -> str | None:
    """Why the choices of the run in `file` do not apply here; None if they do."""
    if RunConfig.from_toml(file).model != config.model:
        return "the model has another shape"
    device = facts.get("device", "cpu") if config.run.device == "auto" else config.run.device
    here, there = processor_name(device) or f"no {device}", facts.get("processor", "unknown")
    return f"the processor differs ({here}, not {there})" if here != there else None
