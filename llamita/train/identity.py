"""The identity of a run: its directory, whether the run there is the same one, and its recorded facts."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamita.config import RunConfig, replace
from llamita.corpus import short_name
from llamita.data import Dataset
from llamita.data.reopen import place_facts
from llamita.errors import UserError
from llamita.evaluate import unigram_entropy
from llamita.parallel import Processes
from llamita.train.display import Display
from llamita.train.recorded_code import can_restart
from llamita.train.run_directory import RunDirectory

Facts = dict[str, Any]
"""What was found out and chosen when the run began, as recorded under [facts] of its config.toml."""


ADDED_LATER = {"minutes": "off"}
"""Identity settings that earlier versions lacked, with the value that they had in effect."""


def default_directory(config: RunConfig, data: Dataset) -> Path:
    """runs/<name>-<hash of the identity>: the same command finds its run again, a changed one starts another.

    Runs of earlier versions are found, too: what was added since does not count while it is off.
    """
    name = config.run.name or short_name(config.data.data[0])
    settings = {key: value for key, value in config.identity().items() if ADDED_LATER.get(key, ...) != value}
    identity = json.dumps([settings, data.fingerprint], sort_keys=True)
    return Path("runs") / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def facts_before(directory: RunDirectory, files: Mapping[str, str]) -> Facts:
    """The facts of the run to resume in `directory`; empty for a new run.

    A run that code other than that of `files` began, but never saved a checkpoint of, is started from scratch.
    """
    if not directory.exists():
        return {}
    facts = directory.facts()
    return {} if can_restart(directory, facts, files) else facts


def require_same_identity(config: RunConfig, data: Dataset, directory: RunDirectory) -> None:
    """Raise `UserError` if the run in `directory` is not the one that `config` and `data` describe."""
    if changed := differences_of_identity(config, data, directory):
        hint = " (--extend raises max_steps)" if "max_steps" in changed[0] else ""
        raise UserError(
            f"{directory.path}: holds a run with another configuration: {', '.join(changed)}; "
            f"choose another --output_dir or the same settings{hint}"
        )


def differences_of_identity(config: RunConfig, data: Dataset, directory: RunDirectory) -> list[str]:
    """How the run in `directory` differs from the one that `config` and `data` describe, e.g. "seed 0 -> 5"."""
    there, here = directory.config().identity(), config.identity()
    if config.run.extend and here["max_steps"] > there["max_steps"]:
        there["max_steps"] = here["max_steps"]
    changed = [f"{name} {there[name]} -> {here[name]}" for name in here if here[name] != there[name]]
    if directory.facts().get("data_fingerprint") != data.fingerprint:
        changed.append("other data or another tokenizer")
    return changed


def with_choices_of(facts: Facts, config: RunConfig, processes: Processes) -> RunConfig:
    """`config` with the same choices for `auto` as when the run began: other choices would round differently."""
    autos = {"device": "auto", "precision": "auto", "threads": 0, "kernels": "auto"}
    if facts.get("world_size", 1) != processes.world_size:
        del autos["threads"]  # more or fewer processes share the cores now
    again = {name: facts[name] for name, auto in autos.items() if getattr(config.run, name) == auto and name in facts}
    return replace(config, **again)


def tell_changes(before: Facts, chosen: Facts, display: Display) -> None:
    """Print a note for each choice that differs from when the run began, or from those of the run to repeat.

    `before` is empty for a new run that repeats none.
    Choices that `before` lacks are not compared: an older version of llamita did not record them.
    """
    known = {"world_size": 1, **before} if before else {}
    for name, value in chosen.items():
        if known.get(name, value) != value:
            display.say(f"note: {name} was {known[name]}, is {value} now: not bitwise reproducible from here on")


def write_identity(config: RunConfig, data: Dataset, directory: RunDirectory, chosen: Facts) -> None:
    """Write the tokenizer and config.toml: every setting, and as facts what was found out and `chosen`."""
    facts = {
        "data_fingerprint": data.fingerprint,
        "tokenizer_fingerprint": data.tokenizer.fingerprint,
        "loss_floor": data.floor,
        "unigram_entropy": unigram_entropy(data.prepared.train.ids, data.tokenizer.vocab_size),
        **place_facts(data),
        **chosen,
    }
    data.tokenizer.save(directory.path)
    directory.write_config(config, facts)
