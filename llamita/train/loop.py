"""The training page: next batch, forward, backward, clip, step, log, evaluate, save. Change training by changing it."""

import math
import time
from pathlib import Path

from llamita.config import RunConfig
from llamita.optim import clip_grad_norm_, cosine_schedule
from llamita.parallel import processes_from_environment
from llamita.train.display import Display
from llamita.train.plan import announce
from llamita.train.run import Run, open_run
from llamita.train.signals import stop_request
from llamita.train.steps import (
    accumulate_gradients,
    announce_evaluation,
    draw_samples,
    evaluate,
    log_metrics,
    next_batch,
    require_finite,
    save,
)


def train(config: RunConfig, display: Display | None = None) -> Path:
    """Train the run that `config` describes, from its beginning or from where it stopped -> its directory.

    Killed at any moment and called again, it ends with the same weights and logged losses, bit for bit (same machine,
    threads and versions). Raises `UserError` for what a person has to mend, and, after Ctrl-C or SIGTERM,
    `KeyboardInterrupt` or `SystemExit` once the step is finished and saved.
    """
    display = display or Display()
    with processes_from_environment() as processes, open_run(config, processes, display) as run:
        if run.state.step < run.config.training.max_steps:
            announce(run)
        _train(run)
        display.close()
        return run.directory.path


def _train(run: Run) -> None:
    execution, optimizer_options, max_steps = run.config.run, run.config.optimizer, run.config.training.max_steps
    state, optimizer, display = run.state, run.optimizer, run.display
    model = run.processes.wrap(run.model)
    clock = _Clock(state.tokens)

    def due(interval: int) -> bool:
        return interval > 0 and (state.step % interval == 0 or state.step == max_steps)

    if state.step == 0:
        log_metrics(run, {}, scored := evaluate(run))
        announce_evaluation(run, scored)
        if execution.sample_every:
            draw_samples(run)

    with stop_request() as stop:
        while state.step < max_steps:
            clock.start()
            lr = cosine_schedule(
                state.step,
                optimizer_options.learning_rate,
                optimizer_options.min_learning_rate,
                optimizer_options.warmup_steps,
                max_steps,
            )
            for group in optimizer.param_groups:
                group["lr"] = lr

            batch = next_batch(run, state.step)
            loss = accumulate_gradients(run, model, batch, state.step)
            norm = clip_grad_norm_(model.parameters(), optimizer_options.grad_clip or math.inf)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            state.step += 1
            state.tokens += int(run.processes.sum(batch.num_targets))
            evaluating, saving, sampling = (
                due(interval) for interval in (execution.eval_every, execution.save_every, execution.sample_every)
            )
            logging = evaluating or saving or due(execution.log_every) or state.step == 1
            if not (logging or sampling or stop):
                clock.stop()
                continue

            require_finite(run, loss.item(), norm.item())
            clock.stop()
            speed = clock.tokens_per_second(state.tokens)
            scored = evaluate(run) if evaluating else None
            if logging:  # a stop leaves no line that an undisturbed run would not have
                values = {"train_loss": loss.item(), "lr": lr, "grad_norm": norm.item(), "tokens_per_second": speed}
                log_metrics(run, values, scored)
            status = f"loss {loss.item():.4f}  lr {lr:.2e}  {speed:,.0f} tok/s"
            display.progress("training", state.step, max_steps, status)
            if scored:
                announce_evaluation(run, scored)
            if sampling:
                draw_samples(run)
            if saving or stop or state.step == max_steps or (scored and state.best_step == state.step):
                save(run)
            if stop and state.step < max_steps:
                display.close()
                display.say(f"stopped at step {state.step:,}, and saved: the same command goes on from here")
                stop.obey()


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
