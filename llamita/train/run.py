"""Opening a run: the configuration resolved, data, model and optimizer made, and the newest checkpoint loaded."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llamita.config import RunConfig, default_learning_rate, replace
from llamita.corpus import short_name
from llamita.data import BatchOrder, Dataset, open_dataset, vocabulary_note
from llamita.errors import UserError
from llamita.evaluate import unigram_entropy
from llamita.model import Llama
from llamita.optim import AdamW, decay_groups
from llamita.parallel import Processes
from llamita.train.checkpoint import load_verified
from llamita.train.display import Display
from llamita.train.hardware import Hardware, choose_hardware
from llamita.train.run_directory import RunDirectory

DEFAULT_STEPS = 1000


@dataclass
class State:
    """All that changes as a run goes on, besides weights and optimizer. It is saved with each checkpoint."""

    step: int = 0
    tokens: int = 0
    best_val_loss: float = math.inf
    best_step: int = -1


@dataclass
class Run:
    """Everything that the training page works with."""

    config: RunConfig
    processes: Processes
    hardware: Hardware
    data: Dataset
    model: Llama
    optimizer: AdamW
    directory: RunDirectory
    state: State
    display: Display

    @property
    def order(self) -> BatchOrder:
        """Which windows each update sees."""
        return BatchOrder(len(self.data.train), self.config.training.sequences_per_update, self.config.training.seed)


@contextmanager
def open_run(config: RunConfig, processes: Processes, display: Display) -> Iterator[Run]:
    """The run that `config` describes, from its beginning or from its newest good checkpoint; locked while it is open.

    Raises `UserError` where the directory holds a run of another identity, or another process trains there.
    """
    if config.run.extend and not config.run.output_dir:
        raise UserError("--extend needs --output_dir: a run with another max_steps has another directory by default")
    data = open_dataset(config, display.progress)
    if note := vocabulary_note(config, data.tokenizer):
        display.say(note)
    config = resolve(config, data)
    directory = RunDirectory(config.run.output_dir or default_directory(config, data))
    with directory.lock():
        config, hardware = _begin(config, data, directory, display)
        model = hardware.apply(Llama(config.model, seed=config.training.seed))
        options = config.optimizer
        groups = decay_groups(model, options.weight_decay)
        optimizer = AdamW(groups, options.learning_rate, (options.beta1, options.beta2), options.adam_eps)
        state = _resume(directory, model, optimizer, display)
        yield Run(config, processes, hardware, data, model, optimizer, directory, state, display)


def resolve(config: RunConfig, data: Dataset) -> RunConfig:
    """`config` with what only data and other settings can tell: vocabulary, first weights, steps, learning rate."""
    steps = config.training.max_steps
    if not steps and config.training.epochs:
        steps = math.ceil(config.training.epochs * len(data.train) / config.training.sequences_per_update)
    head_init = config.model.head_init
    if head_init == "auto":
        head_init = "copy" if config.data.is_stories else "random"
    return replace(
        config,
        vocab_size=data.tokenizer.vocab_size,
        head_init=head_init,
        max_steps=steps or DEFAULT_STEPS,
        epochs=0.0,
        learning_rate=config.optimizer.learning_rate or default_learning_rate(config.model.hidden_size, head_init),
    )


def default_directory(config: RunConfig, data: Dataset) -> Path:
    """runs/<name>-<hash of the identity>: the same command finds its run again, a changed one begins another."""
    name = config.run.name or short_name(config.data.data[0])
    identity = json.dumps([config.identity(), data.fingerprint], sort_keys=True)
    return Path("runs") / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def _begin(config: RunConfig, data: Dataset, directory: RunDirectory, display: Display) -> tuple[RunConfig, Hardware]:
    """Check what is there against what is asked, decide every `auto`, and write it all down."""
    if directory.exists():
        facts = directory.facts()
        _require_same_identity(config, data, directory, facts)
        config = _with_choices_of(facts, config, display)
    hardware = choose_hardware(config.run)
    facts = {
        "data_fingerprint": data.fingerprint,
        "tokenizer_fingerprint": data.tokenizer.fingerprint,
        "loss_floor": data.floor,
        "unigram_entropy": unigram_entropy(data.prepared.train.ids, data.tokenizer.vocab_size),
        **dataclasses.asdict(hardware),
        "torch": torch.__version__,
    }
    data.tokenizer.save(directory.path)
    directory.write_config(config, facts)
    return config, hardware


def _require_same_identity(config: RunConfig, data: Dataset, directory: RunDirectory, facts: dict[str, Any]) -> None:
    there, here = directory.config().identity(), config.identity()
    if config.run.extend and here["max_steps"] > there["max_steps"]:
        there["max_steps"] = here["max_steps"]
    changed = [f"{name} {there[name]} -> {here[name]}" for name in here if here[name] != there[name]]
    if facts.get("data_fingerprint") != data.fingerprint:
        changed.append("other data or another tokenizer")
    if changed:
        hint = " (--extend raises max_steps)" if "max_steps" in changed[0] else ""
        raise UserError(
            f"{directory.path}: holds a run with another configuration: {', '.join(changed)}; "
            f"choose another --output_dir or the same settings{hint}"
        )


def _with_choices_of(facts: dict[str, Any], config: RunConfig, display: Display) -> RunConfig:
    """What `auto` chose when the run began is chosen again, since another choice would round differently."""
    chosen = {"device": "auto", "precision": "auto", "threads": 0}
    again = {name: facts[name] for name, auto in chosen.items() if getattr(config.run, name) == auto and name in facts}
    config = replace(config, **again)
    now = {"device": config.run.device, "precision": config.run.precision, "threads": config.run.threads}
    for name, value in {**now, "torch": torch.__version__}.items():
        if facts.get(name) != value:
            display.say(f"note: {name} was {facts.get(name)}, is {value} now: from here on not the same bit for bit")
    return config


def _resume(directory: RunDirectory, model: Llama, optimizer: AdamW, display: Display) -> State:
    """Load the newest good checkpoint, and cut the logs back to it. Without one, begin anew."""
    found = directory.newest_good()
    if found is None:
        directory.metrics.truncate(0)
        directory.samples.truncate(0)
        return State()
    checkpoint, complaints = found
    for complaint in complaints:
        display.say(f"note: {complaint}; going on from {checkpoint.path.name} instead")
    load_verified(checkpoint, model, optimizer)
    manifest = checkpoint.manifest
    directory.metrics.truncate(manifest["metrics_offset"])
    directory.samples.truncate(manifest["samples_offset"])
    # The run may have been killed after it saved this checkpoint and before it deleted older ones.
    directory.prune(manifest["step"], manifest["best_step"], spare_newer=True)
    best = manifest["best_val_loss"]
    return State(manifest["step"], manifest["tokens"], math.inf if best is None else best, manifest["best_step"])
