"""What a run prints: its plan, its progress, and how it ended."""

from llamita.console import shell_line
from llamita.evaluate import Evaluation
from llamita.planning.machine_memory import peak_memory
from llamita.planning.micro_batch import warn_of_full_memory
from llamita.planning.peak import peak_flops
from llamita.planning.plan import Plan, seconds_of_step, warn_of_many_epochs, warn_of_short_run
from llamita.train.build import Run
from llamita.train.display import clock_time
from llamita.train.steps import trial_step


def measure(run: Run) -> float:
    """Measure peak FLOP/s and one step -> the seconds of the step, which leaves no trace."""
    if warning := warn_of_full_memory(run.config, run.hardware, run.choices.micro_batch_size):
        run.display.say(warning)
    run.peak = run.processes.max(peak_flops(run.hardware))
    return seconds_of_step(lambda: trial_step(run), run.processes)


def announce(run: Run, seconds: float, prepared: float) -> None:
    """Print the plan. A step takes `seconds`; `prepared` seconds have passed before the first one."""
    state = 0 if run.optimizer.state else run.optimizer.state_bytes()  # which the trial does not allocate
    plan = Plan(
        run.config,
        run.data,
        run.hardware,
        run.choices,
        run.intervals,
        run.processes,
        run.directory.path,
        run.model.num_parameters(),
        run.peak,
        seconds,
        peak_memory(run.hardware.device) + state,
        run.max_steps,
        prepared,
        run.state.step,
    )
    for name, text in plan.lines().items():
        run.display.say(f"{name:<11} {text}")
    many_epochs = None if run.epochs_requested else warn_of_many_epochs(plan)
    for warning in (warn_of_short_run(run.config.optimizer.warmup_steps, run.max_steps), many_epochs):
        if warning:
            run.display.say(warning)
    run.display.say()


def announce_step(run: Run, loss: float, lr: float, tokens_per_second: float) -> None:
    """Show the progress of training."""
    speed = f"{tokens_per_second:,.0f}" if tokens_per_second < 1e6 else f"{tokens_per_second / 1e6:.2f}M"
    status = f"loss {loss:.4f}", f"{speed} tok/s"
    details = f"lr {lr:.2e}", f"MFU {run.utilization(tokens_per_second):.0%}"
    run.display.progress("training", run.state.step, run.max_steps, status, details)


def announce_evaluation(run: Run, scored: Evaluation) -> None:
    """Print the result of an evaluation."""
    floor = f", {scored.loss - run.data.floor:.4f} above the floor" if run.data.floor is not None else ""
    run.display.say(
        f"step {run.state.step:,}: validation loss {scored.loss:.4f} nats/token{floor}, "
        f"perplexity {scored.perplexity:.2f}, {scored.bits_per_byte:.3f} bits/byte"
    )


def announce_stop(run: Run) -> None:
    """Say that the run was stopped, and how to resume it."""
    run.display.close()
    run.display.say(f"stopped at step {run.state.step:,}, and saved: the same command resumes from here")


def announce_end(run: Run, first_step: int, seconds: float) -> None:
    """Say that the run is finished, after `seconds` from `first_step` on; where it was before, how to train further."""
    step, path, minutes = run.state.step, run.directory.path, run.config.training.minutes
    if first_step < step:
        since = f" since step {first_step:,}" if first_step else ""
        used = "" if minutes == "off" else f"; {run.clock.seconds / 60:.2f} of {minutes:g} minutes from step 1 on"
        run.display.say(f"finished at step {step:,}, total time{since} {clock_time(seconds)}{used}")
        return
    more = f"add --extend {shell_line('--output_dir', path)} and a larger --max_steps (or --epochs)"
    further = f"To train it further, {more}; for" if minutes == "off" else "For"
    run.display.say(
        f"{path}: this run is already finished, at step {step:,} of {run.max_steps:,}. {further} a new run, change a "
        "setting, such as --seed"
    )
