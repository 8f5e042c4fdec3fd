"""Which run a configuration is: its directory, whether the run found there is the same, and the facts of that run."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamita.config import RunConfig, replace
from llamita.corpus import short_name
from llamita.data import Dataset
from llamita.errors import UserError
from llamita.evaluate import unigram_entropy
from llamita.parallel import Processes
from llamita.train.display import Display
from llamita.train.recorded_code import can_begin_anew
from llamita.train.run_directory import RunDirectory

Facts = dict[str, Any]
"""What a run found out and chose when it began, as [facts] of its config.toml holds it."""


def default_directory(config: RunConfig, data: Dataset) -> Path:
    """runs/<name>-<hash of the identity>: the same command finds its run again, a changed one begins another."""
    name = config.run.name or short_name(config.data.data[0])
    identity = json.dumps([config.identity(), data.fingerprint], sort_keys=True)
    return Path("runs") / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def facts_before(directory: RunDirectory, files: Mapping[str, str]) -> Facts:
    """The facts of the run that goes on in `directory`; empty where one begins.

    One begins, too, where other code than that of `files` computed what is there, but never saved a checkpoint.
    """
    if not directory.exists():
        return {}
    facts = directory.facts()
    return {} if can_begin_anew(directory, facts, files) else facts


def require_same_identity(config: RunConfig, data: Dataset, directory: RunDirectory) -> None:
    """Raise `UserError` where the run in `directory` is not the one that `config` and `data` describe."""
    if changed := differences_of_identity(config, data, directory):
        hint = " (--extend raises max_steps)" if "max_steps" in changed[0] else ""
        raise UserError(
            f"{directory.path}: holds a run with another configuration: {', '.join(changed)}; "
            f"choose another --output_dir or the same settings{hint}"
        )


def differences_of_identity(config: RunConfig, data: Dataset, directory: RunDirectory) -> list[str]:
    """What makes the run in `directory` another one than `config` and `data` describe, e.g. "seed 0 -> 5"."""
    there, here = directory.config().identity(), config.identity()
    if config.run.extend and here["max_steps"] > there["max_steps"]:
        there["max_steps"] = here["max_steps"]
    changed = [f"{name} {there[name]} -> {here[name]}" for name in here if here[name] != there[name]]
    if directory.facts().get("data_fingerprint") != data.fingerprint:
        changed.append("other data or another tokenizer")
    return changed


def with_choices_of(facts: Facts, config: RunConfig, processes: Processes) -> RunConfig:
    """`config`, with what `auto` chose when the run began chosen again: another choice would round differently."""
    autos = {"device": "auto", "precision": "auto", "threads": 0, "kernels": "auto"}
    if facts.get("world_size", 1) != processes.world_size:
        del autos["threads"]  # the cores are shared by more processes now, or by fewer
    again = {name: facts[name] for name, auto in autos.items() if getattr(config.run, name) == auto and name in facts}
    return replace(config, **again)


def tell_changes(before: Facts, chosen: Facts, display: Display) -> None:
    """Note what is computed otherwise than when the run began. `before` is empty for a run that begins.

    What `before` does not name is not compared: an older version of llamita did not record it.
    """
    known = {"world_size": 1, **before} if before else {}
    for name, value in chosen.items():
        if known.get(name, value) != value:
            display.say(f"note: {name} was {known[name]}, is {value} now: from here on not bitwise reproducible")


def write_identity(config: RunConfig, data: Dataset, directory: RunDirectory, chosen: Facts) -> None:
    """Write the tokenizer and config.toml: every setting, and as facts what was found out and `chosen`."""
    facts = {
        "data_fingerprint": data.fingerprint,
        "tokenizer_fingerprint": data.tokenizer.fingerprint,
        "loss_floor": data.floor,
        "unigram_entropy": unigram_entropy(data.prepared.train.ids, data.tokenizer.vocab_size),
        **chosen,
    }
    data.tokenizer.save(directory.path)
    directory.write_config(config, facts)
