"""Opening a run: the configuration resolved, data, model and optimizer made, and the newest checkpoint loaded."""

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llamita.config import RunConfig, default_learning_rate, replace
from llamita.corpus import short_name
from llamita.data import BatchOrder, Dataset, note_on_documents, note_on_vocabulary, open_dataset
from llamita.errors import UserError
from llamita.evaluate import unigram_entropy
from llamita.model import Llama
from llamita.optim import AdamW, Scaling, decay_groups
from llamita.parallel import Processes
from llamita.planning.room import require_room_for_weights
from llamita.runtime.blocks import choose_blocks
from llamita.runtime.hardware import Hardware, choose_hardware
from llamita.train.checkpoint import load_verified
from llamita.train.display import Display
from llamita.train.run_directory import RunDirectory

DEFAULT_STEPS = 1400
LATER = "compile", "micro_batch_size", "attention_block", "head_block"
"""Facts that are found out when the model is there (`preparation.py`)."""


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
    scaling: Scaling
    directory: RunDirectory
    state: State
    display: Display
    facts_before: dict[str, Any]
    """What the run wrote down when it began, where it goes on; else nothing."""
    step_model: nn.Module
    """What computes the loss of a step: `model`, or the same compiled."""
    micro_batch_size: int
    """Sequences that a process computes at once."""
    peak: float = math.nan
    """Of the matrix units, in FLOP/s, as measured."""

    @cached_property
    def num_parameters(self) -> int:
        """Of the model."""
        return sum(self.model.num_parameters().values())

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
    display = display if processes.is_main else Display(quiet=True)
    with processes.main_first():
        data = open_dataset(config, display.progress)
    for note in (note_on_vocabulary(config, data.tokenizer), note_on_documents(data.prepared, data.tokenizer)):
        if note:
            display.say(note)
    config = resolve(config, data)
    require_enough_sequences(config, processes.world_size)
    directory = RunDirectory(config.run.output_dir or default_directory(config, data))
    with directory.lock() if processes.is_main else nullcontext():
        with processes.main_first():
            hardware, before = _begin(config, data, directory, processes, display)
        require_room_for_weights(config.model, hardware.device)
        batch_size = math.ceil(config.training.batch_size / processes.world_size)
        hardware = choose_blocks(hardware, config.run, config.model, batch_size, before, processes)
        model = hardware.apply(Llama(config.model, seed=config.training.seed))
        options = config.optimizer
        groups = decay_groups(model, options.weight_decay)
        optimizer = AdamW(groups, options.learning_rate, (options.beta1, options.beta2), options.adam_eps)
        scaling = hardware.scaling()
        run = Run(
            config,
            processes,
            hardware,
            data,
            model,
            optimizer,
            scaling,
            directory,
            State(),
            display,
            facts_before=before,
            step_model=model,
            micro_batch_size=batch_size,
        )
        _resume(run)
        yield run


def resolve(config: RunConfig, data: Dataset) -> RunConfig:
    """`config` with what only data and other settings can tell: vocabulary, first weights, steps, learning rate."""
    steps = config.training.max_steps
    if not steps and config.training.epochs:
        steps = math.ceil(config.training.epochs * len(data.train) / config.training.sequences_per_update)
    head_init = data.defaults.head_init if config.model.head_init == "auto" else config.model.head_init
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


def require_enough_sequences(config: RunConfig, world_size: int) -> None:
    """Raise `UserError` where not each of so many processes would have a sequence of an update."""
    if config.training.sequences_per_update < world_size:
        raise UserError(
            f"batch_size {config.training.batch_size} x grad_accum_steps {config.training.grad_accum_steps} leaves "
            f"some of {world_size:,} processes without a sequence: raise --batch_size or lower --world_size"
        )


def _begin(
    config: RunConfig, data: Dataset, directory: RunDirectory, processes: Processes, display: Display
) -> tuple[Hardware, dict[str, Any]]:
    """Check what is there against what is asked, decide every `auto`, and write it all down."""
    before = directory.facts() if directory.exists() else {}
    if before:
        _require_same_identity(config, data, directory, before)
    hardware = choose_hardware(_with_choices_of(before, config, processes).run, processes)
    chosen = {**hardware.choices, "world_size": processes.world_size, "torch": torch.__version__}
    if before:
        tell_changes(before, chosen, display)
    if processes.is_main:
        _write_down(config, data, directory, {**chosen, **{name: before[name] for name in LATER if name in before}})
    return hardware, before


def _write_down(config: RunConfig, data: Dataset, directory: RunDirectory, chosen: dict[str, Any]) -> None:
    facts = {
        "data_fingerprint": data.fingerprint,
        "tokenizer_fingerprint": data.tokenizer.fingerprint,
        "loss_floor": data.floor,
        "unigram_entropy": unigram_entropy(data.prepared.train.ids, data.tokenizer.vocab_size),
        **chosen,
    }
    data.tokenizer.save(directory.path)
    directory.write_config(config, facts)


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


def _with_choices_of(facts: dict[str, Any], config: RunConfig, processes: Processes) -> RunConfig:
    """What `auto` chose when the run began is chosen again, since another choice would round differently."""
    autos = {"device": "auto", "precision": "auto", "threads": 0, "kernels": "auto"}
    if facts.get("world_size", 1) != processes.world_size:
        del autos["threads"]  # the cores are shared by more processes now, or by fewer
    again = {name: facts[name] for name, auto in autos.items() if getattr(config.run, name) == auto and name in facts}
    return replace(config, **again)


def tell_changes(before: dict[str, Any], chosen: dict[str, Any], display: Display) -> None:
    """Say what is computed otherwise than when the run began, and that it rounds otherwise from here on."""
    before = {"world_size": 1, **before}
    for name, value in chosen.items():
        if before.get(name) != value:
            display.say(f"note: {name} was {before.get(name)}, is {value} now: from here on not the same bit for bit")


def _resume(run: Run) -> None:
    """Load the newest good checkpoint, and cut the logs back to it. Without one, begin anew."""
    found = run.directory.newest_good()
    if found is None:
        if run.processes.is_main:
            run.directory.truncate_logs(0, 0)
        return
    checkpoint, complaints = found
    for complaint in complaints:
        run.display.say(f"note: {complaint}; going on from {checkpoint.path.name} instead")
    load_verified(checkpoint, run.model, run.optimizer)
    manifest = checkpoint.manifest
    best = manifest["best_val_loss"]
    run.state = State(manifest["step"], manifest["tokens"], math.inf if best is None else best, manifest["best_step"])
    run.scaling = run.hardware.scaling(manifest.get("scaler"))
    if run.processes.is_main:
        run.directory.truncate_logs(manifest["metrics_offset"], manifest["samples_offset"])
        # The run may have been killed after it saved this checkpoint and before it deleted older ones.
        run.directory.prune(run.state.step, run.state.best_step, run.config.run.keep_last, spare_newer=True)
