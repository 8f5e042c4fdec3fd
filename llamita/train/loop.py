"""The training page: next batch, forward, backward, clip, step, log, save, evaluate, sample. Change training here.

A step is logged and saved before it is evaluated and sampled: a crash in evaluation or sampling loses nothing, and the
next start makes up for it first.
"""

import math
import time
from contextlib import closing, nullcontext
from pathlib import Path

import torch

from llamita.config import RunConfig
from llamita.errors import UserError
from llamita.model import Llama
from llamita.optim import clip_grad_norm_, make_schedule, set_learning_rate
from llamita.parallel import launch, processes_from_environment, started_processes
from llamita.runtime.hardware import require_places
from llamita.train.announce import announce, announce_end, announce_evaluation, announce_step, announce_stop, measure
from llamita.train.budget import correct_length, plan_length
from llamita.train.build import Run
from llamita.train.clocks import SaveTimer
from llamita.train.display import Display
from llamita.train.hints import OverfittingHint
from llamita.train.resolve import require_enough_sequences
from llamita.train.result import report_result
from llamita.train.run import open_run
from llamita.train.signals import stop_request
from llamita.train.steps import (
    evaluate,
    is_due,
    lacks_evaluation,
    lacks_samples,
    log_evaluation,
    log_training,
    mark_best,
    micro_batches,
    next_batch,
    require_finite,
    sample,
    save,
)
from llamita.train.trackers import require_tracker


def train(
    config: RunConfig,
    display: Display | None = None,
    *,
    repeated: str | Path | None = None,
    model_class: type[Llama] = Llama,
) -> Path:
    """Train the run that `config` describes, from its beginning or from where it stopped -> its directory.

    Killed at any moment and called again, it ends with the same weights and logged losses, bit for bit (same machine,
    threads and versions). Raises `UserError` for the user's mistakes, and, after Ctrl-C, SIGTERM or SIGHUP,
    `KeyboardInterrupt` or `SystemExit` once the step is finished and saved. With a `world_size` above 1, other
    processes train, and this one waits for them. `repeated`: the config.toml of a run; what `auto` chose there is
    chosen again, where model shape and processor are the same. `model_class`: a subclass of `Llama` to train instead. A
    run that ends here is recorded in results.tsv, in the folder that holds it.
    """
    started = time.monotonic()
    require_tracker(config.run.track)
    with closing(display or Display()) as display:  # also after an error or Ctrl-C: a progress bar hides the cursor
        launched = started_processes()
        if launched is None and config.run.world_size > 1:
            if model_class is not Llama:
                raise UserError("a model_class is not passed to other processes: start them with torchrun")
            return _train_in_processes(config, display, repeated)
        if config.run.world_size not in (0, launched or 1):
            raise UserError(
                f"--world_size is {config.run.world_size}, but {launched} processes were started: leave it out"
            )
        with (
            processes_from_environment() as processes,
            open_run(config, processes, display, repeated, model_class) as run,
        ):
            first = run.state.step
            with report_result(run):
                if not run.is_finished:
                    seconds = measure(run)
                    plan_length(run, seconds)
                    announce(run, seconds, prepared=time.monotonic() - started)
                _train(run)
            announce_end(run, first, time.monotonic() - started)
            return run.directory.path


def _train_in_processes(config: RunConfig, display: Display, repeated: str | Path | None) -> Path:
    require_enough_sequences(config, config.run.world_size)  # before they are all started
    require_places(config.run.device, config.run.world_size)
    task = {"config": config.tables(), **display.options, "repeated": repeated and str(repeated)}
    with stop_request() as stop:
        path = launch("llamita.train.process", task, config.run.world_size, lambda: stop.received)
        if path is None:
            stop.obey()
    assert path is not None, "processes that were not stopped return a result"
    return Path(path)


def _train(run: Run) -> None:
    state, optimizer, processes, every, clock = run.state, run.optimizer, run.processes, run.intervals, run.clock
    learning_rate = make_schedule(run.config.optimizer, state.length.first)
    max_norm = run.config.optimizer.grad_clip or math.inf
    model = processes.wrap(run.step_model)
    save_timer = SaveTimer(every.save_seconds)
    overfitting = OverfittingHint().remember(run.directory.metrics.rows() if processes.is_main else [])

    if lacks_evaluation(run):  # at step 0, or where the last process ended just after it saved
        _evaluate(run, overfitting)
    if lacks_samples(run):
        sample(run)

    clock.start(state.step, state.tokens)
    correct_length(run)
    with stop_request() as stop:
        while state.step < run.max_steps:
            lr = learning_rate(state.length.position(state.step))
            set_learning_rate(optimizer, lr)

            batch = next_batch(run, state.step)
            # The loss is the mean over all targets of the update: a mean of means would weigh those of short sequences
            # more. DDP averages gradients over the processes, but they have to be summed.
            num_targets = processes.sum(batch.num_targets)
            scale = processes.world_size / num_targets * run.scaling.scale
            loss = torch.zeros((), device=run.hardware.device)
            for part, is_last in micro_batches(run, batch, state.step):
                with nullcontext() if is_last else processes.no_sync(model):
                    with run.hardware.autocast():
                        nats = model(part.ids, part.targets, reduction="sum")
                    (nats * scale).backward()
                loss += nats.detach() / num_targets
            loss = processes.all_reduce(loss)

            run.scaling.unscale_(model.parameters())
            norm = clip_grad_norm_(model.parameters(), max_norm)
            updated = run.scaling.step(optimizer, norm)  # always, except in fp16 where a gradient overflowed
            optimizer.zero_grad(set_to_none=True)

            state.step, state.tokens = state.step + 1, state.tokens + int(num_targets)
            stop.agree(processes)
            correct_length(run)  # only of a run with a budget of minutes
            evaluating, sampling = is_due(run, every.evaluate), is_due(run, every.sample)
            saving = evaluating or is_due(run, every.save) or save_timer.is_due(processes) or bool(stop)
            logging = evaluating or is_due(run, every.log) or state.step == 1  # not for a save: logs never depend on it
            if not (logging or saving or sampling):
                clock.stop_step()
                continue

            grad_norm = norm.item() if updated else None
            require_finite(run, loss.item(), grad_norm)
            clock.stop_step()
            if logging:
                clock.measure_speed(state.tokens)
                log_training(run, loss.item(), lr, grad_norm, clock.speed)
                overfitting.trained(loss.item())
            if saving:
                save(run)
                save_timer.restart()
            if stop and state.step < run.max_steps:
                announce_stop(run)
                stop.obey()
            if logging:
                announce_step(run, loss.item(), lr, clock.speed)
            if evaluating:
                _evaluate(run, overfitting)
            if sampling:
                sample(run)


def _evaluate(run: Run, overfitting: OverfittingHint) -> None:
    """Score the validation set, log and print the result, and mark the checkpoint of this step where it is the best."""
    scored = evaluate(run)
    log_evaluation(run, scored)
    mark_best(run, scored.loss)
    announce_evaluation(run, scored)
    if hint := overfitting.evaluated(run.state.step, scored.loss):
        run.display.say(hint)
