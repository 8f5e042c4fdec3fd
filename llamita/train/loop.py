"""The training page: next batch, forward, backward, clip, step, log, save, evaluate, sample. Change training here.

A step is logged and saved before it is evaluated and sampled: a crash in what takes long, or is new, loses nothing, and
the next start makes up for it first.
"""

import math
import time
from contextlib import closing
from pathlib import Path

import torch

from llamita.config import RunConfig
from llamita.errors import UserError
from llamita.optim import clip_grad_norm_, make_schedule, set_learning_rate
from llamita.parallel import launch, processes_from_environment, started_processes
from llamita.runtime.hardware import require_places
from llamita.train.announce import announce
from llamita.train.build import Run
from llamita.train.display import Display
from llamita.train.hints import OverfittingHint
from llamita.train.resolve import require_enough_sequences
from llamita.train.run import open_run
from llamita.train.signals import stop_request
from llamita.train.steps import (
    announce_evaluation,
    draw_samples,
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
    save,
)


def train(config: RunConfig, display: Display | None = None) -> Path:
    """Train the run that `config` describes, from its beginning or from where it stopped -> its directory.

    Killed at any moment and called again, it ends with the same weights and logged losses, bit for bit (same machine,
    threads and versions). Raises `UserError` for what a person has to mend, and, after Ctrl-C or SIGTERM,
    `KeyboardInterrupt` or `SystemExit` once the step is finished and saved. With a `world_size` above 1, other
    processes do it, and this one waits for them.
    """
    with closing(display or Display()) as display:  # also after an error or Ctrl-C: a bar hides the cursor
        started = started_processes()
        if started is None and config.run.world_size > 1:
            return _train_in_processes(config, display)
        if config.run.world_size not in (0, started or 1):
            raise UserError(
                f"--world_size is {config.run.world_size}, but {started} processes were started: leave it out"
            )
        with processes_from_environment() as processes, open_run(config, processes, display) as run:
            if run.state.step < run.config.training.max_steps:
                announce(run)
            _train(run)
            return run.directory.path


def _train_in_processes(config: RunConfig, display: Display) -> Path:
    require_enough_sequences(config, config.run.world_size)  # before they are all started
    require_places(config.run.device, config.run.world_size)
    task = {"config": config.tables(), "quiet": display.console.quiet}
    with stop_request() as stop:
        path = launch("llamita.train.process", task, config.run.world_size, lambda: stop.received)
        if path is None:
            stop.obey()
    assert path is not None, "processes that nobody stopped have a result"
    return Path(path)


def _train(run: Run) -> None:
    execution, max_steps = run.config.run, run.config.training.max_steps
    state, optimizer, processes, display = run.state, run.optimizer, run.processes, run.display
    learning_rate = make_schedule(run.config.optimizer, max_steps)
    max_norm = run.config.optimizer.grad_clip or math.inf
    model = processes.wrap(run.step_model)
    clock = _Clock(state.tokens)
    overfitting = OverfittingHint().remember(run.directory.metrics.rows() if processes.is_main else [])

    if lacks_evaluation(run):  # at step 0, or where the last process ended just after it saved
        _evaluate(run, overfitting)
    if lacks_samples(run):
        draw_samples(run)

    with stop_request() as stop:
        while state.step < max_steps:
            clock.start()
            lr = learning_rate(state.step)
            set_learning_rate(optimizer, lr)

            batch = next_batch(run, state.step)
            # The loss is the mean over all targets of the update: a mean of means would weigh those of short sequences
            # more. DDP averages gradients over processes, but they are to be summed.
            num_targets = processes.sum(batch.num_targets)
            scale = processes.world_size / num_targets * run.scaling.scale
            loss = torch.zeros((), device=run.hardware.device)
            for part, is_last in micro_batches(run, batch, state.step):
                with processes.unsynchronised(model, is_last):
                    with run.hardware.autocast():
                        nats = model(part.ids, part.targets, reduction="sum")
                    (nats * scale).backward()
                loss += nats.detach() / num_targets
            loss = processes.add_up(loss)

            run.scaling.unscale_(model.parameters())
            norm = clip_grad_norm_(model.parameters(), max_norm)
            updated = run.scaling.step(optimizer, norm)  # always, but in fp16 where a gradient overflowed
            optimizer.zero_grad(set_to_none=True)

            state.step, state.tokens = state.step + 1, state.tokens + int(num_targets)
            stop.agree(processes)
            evaluating, saving = is_due(run, execution.eval_every), is_due(run, execution.save_every)
            sampling = is_due(run, execution.sample_every)
            logging = evaluating or saving or is_due(run, execution.log_every) or state.step == 1
            if not (logging or sampling or stop):
                clock.stop()
                continue

            grad_norm = norm.item() if updated else None
            require_finite(run, loss.item(), grad_norm)
            clock.stop()
            speed = clock.tokens_per_second(state.tokens)
            if logging:  # a stop leaves no line that an undisturbed run would not have
                log_training(run, loss.item(), lr, grad_norm, speed)
                overfitting.trained(loss.item())
            status = f"loss {loss.item():.4f}  lr {lr:.2e}  {speed:,.0f} tok/s  MFU {run.utilization(speed):.0%}"
            display.progress("training", state.step, max_steps, status)
            if saving or evaluating or stop:
                save(run)
            if stop and state.step < max_steps:
                display.close()
                display.say(f"stopped at step {state.step:,}, and saved: the same command goes on from here")
                stop.obey()
            if evaluating:
                _evaluate(run, overfitting)
            if sampling:
                draw_samples(run)


def _evaluate(run: Run, overfitting: OverfittingHint) -> None:
    """Score the validation set, log and print that, and mark the checkpoint of this step where it is the best."""
    scored = evaluate(run)
    log_evaluation(run, scored)
    mark_best(run, scored.loss)
    announce_evaluation(run, scored)
    if hint := overfitting.evaluated(run.state.step, scored.loss):
        run.display.say(hint)


class _Clock:
    """Time spent in training steps, evaluation and saving left out."""

    def __init__(self, tokens: int):
        self._seconds, self._tokens, self._started = 0.0, tokens, 0.0

    def start(self) -> None:
        self._started = time.perf_counter()

    def stop(self) -> None:
        self._seconds += time.perf_counter() - self._started

    def tokens_per_second(self, tokens: int) -> float:
        """Since the last call."""
        speed = (tokens - self._tokens) / max(self._seconds, 1e-9)
        self._seconds, self._tokens = 0.0, tokens
        return speed
