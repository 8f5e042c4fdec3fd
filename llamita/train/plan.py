"""What a run is going to do, in numbers, before it does it."""

import resource
import sys
import time

import torch

from llamita.planning.peak import flops_per_token
from llamita.train.build import Run
from llamita.train.steps import accumulate_gradients, next_batch


def announce(run: Run, decided: dict[str, str]) -> None:
    """Print the plan: what was `decided` about the steps, and what they will take.

    One step is computed on trial, and forgotten, to know the time and the memory.
    """
    config, training = run.config, run.config.training
    groups = run.model.num_parameters()
    total = sum(groups.values())
    tokens = training.max_steps * training.sequences_per_update * _tokens_per_window(run)
    epochs = training.max_steps * training.sequences_per_update / len(run.data.train)
    steps_left = training.max_steps - run.state.step
    seconds, memory = trial_step(run)
    processes = f"{run.processes.world_size} processes, each " if run.processes.world_size > 1 else ""
    parts = ", ".join(f"{name.replace('_', '-')} {count:,}" for name, count in groups.items() if count)
    lines = {
        "run": f"{run.directory.path}" + (f", going on from step {run.state.step:,}" if run.state.step else ""),
        "hardware": f"{processes}{run.hardware}",
        **({"kernels": _blocks(run)} if run.hardware.computes_natively else {}),
        "steps": f"{decided['micro_batch_size']}, {decided['compile']}",
        "data": f"{run.data.prepared.manifest.source}: {run.data.prepared.train.part.tokens:,} tokens to train on, "
        f"{run.data.prepared.validation.part.tokens:,} to validate, vocabulary {config.model.vocab_size:,}",
        "parameters": f"{total:,} ({parts})",
        "compute": f"{flops_per_token(config.model, total) / 1e6:,.1f} MFLOP per token, "
        f"{tokens / total:,.1f} tokens per parameter; the matrix peak here is {run.peak / 1e9:,.0f} GFLOP/s",
        "update": f"{training.batch_size} sequences x {training.grad_accum_steps} accumulated x "
        f"{_tokens_per_window(run):,.0f} tokens = "
        f"{training.sequences_per_update * _tokens_per_window(run):,.0f} tokens",
        "length": f"{training.max_steps:,} steps, {tokens:,.0f} tokens, {epochs:.2f} epochs",
        "expected": f"about {_duration(steps_left * seconds)} of training steps, {memory / 2**20:,.0f} MiB of memory, "
        f"MFU {utilization(run, training.sequences_per_update * _tokens_per_window(run) / seconds):.0%}",
    }
    for name, text in lines.items():
        run.display.say(f"{name:<11} {text}")
    if note := _note_on_warmup(run):
        run.display.say(note)
    run.display.say()


def _blocks(run: Run) -> str:
    """How much the native kernels take at once, and why."""
    reasons, blocks = run.hardware.reasons, run.hardware.blocks
    return (
        f"attention of {blocks.attention_block:,} queries at once ({reasons['attention_block']}), "
        f"head of {blocks.head_block:,} tokens at once ({reasons['head_block']})"
    )


def utilization(run: Run, tokens_per_second: float) -> float:
    """Model FLOP utilization (Chowdhery et al., 2022): what the model needs, as a share of what the hardware can do."""
    flops = flops_per_token(run.config.model, run.num_parameters) * tokens_per_second
    return flops / (run.peak * run.processes.world_size)


def _note_on_warmup(run: Run) -> str | None:
    """What to say where a run ends before its learning rate has grown: it learns next to nothing."""
    warmup, steps = run.config.optimizer.warmup_steps, run.config.training.max_steps
    if warmup <= steps:
        return None
    return (
        f"warning: {steps:,} steps end before the {warmup:,} of the warmup, and the learning rate grows to "
        f"{steps / warmup:.0%} of what it should be: lower --warmup_steps, or raise --max_steps or --epochs"
    )


def trial_step(run: Run) -> tuple[float, float]:
    """Seconds of one update, and peak memory in bytes with the optimizer's state. Leaves the run as it was."""
    # The first one also warms up. All processes have to agree on how many follow: they compute them together.
    quick = run.processes.max(_seconds_of_gradients(run)) < 1
    seconds = min(_seconds_of_gradients(run) for _ in range(5 if quick else 1))  # what else runs can only lengthen it
    run.optimizer.zero_grad(set_to_none=True)
    optimizer_bytes = 8 * sum(p.numel() for p in run.model.parameters())
    return seconds, _peak_memory(run.hardware.device) + optimizer_bytes


def _seconds_of_gradients(run: Run) -> float:
    run.optimizer.zero_grad(set_to_none=True)  # as in training: a CUDA graph would write over gradients that are kept
    started = time.perf_counter()
    accumulate_gradients(run, run.step_model, next_batch(run, run.state.step), run.state.step)
    run.hardware.wait()
    return time.perf_counter() - started


def _peak_memory(device: str) -> float:
    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _tokens_per_window(run: Run) -> float:
    """Tokens that a window teaches, on average: documents may be shorter than the context."""
    part = run.data.prepared.train.part
    return min(run.config.model.max_seq_len, part.tokens / len(run.data.train))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
