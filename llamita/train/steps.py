"""The steps that the training page is made of."""

import math
from collections.abc import Iterator
from contextlib import nullcontext

import torch

from llamita.config import GenerationConfig, Interval
from llamita.data import Batch
from llamita.errors import DivergenceError
from llamita.evaluate import Evaluation, evaluate_loss, evenly_spaced
from llamita.generate import generate_many, printable
from llamita.randomness import key
from llamita.train.budget import record_length
from llamita.train.build import Run
from llamita.train.checkpoint import save_checkpoint
from llamita.train.run_directory import timestamp

SAMPLE_TOKENS = 256
EVAL_TOKENS = 64_000  # scoring them takes about as long as five steps of 4,096 tokens
AUTOCAST_FROM = 4_000_000  # parameters: sampling from a smaller model is not bound by reading its weights
MEASURED = "train_loss", "lr", "grad_norm", "tokens_per_second", "val_loss", "perplexity", "bits_per_byte"
SMALLEST_SCALE = 2**-14  # of the loss in fp16: below it, small gradients underflow to zero


def next_batch(run: Run, step: int) -> Batch:
    """This process's rows of the batch of update number `step`, a pure function of (seed, step)."""
    indices = run.order.indices(step)
    return run.data.train.batch(indices[run.processes.share(len(indices))])


def micro_batches(run: Run, batch: Batch, step: int) -> Iterator[tuple[Batch, bool]]:
    """The micro-batches of this process's `batch`, on the device; with each, whether it is the last of the update.

    Each seeds dropout with a key of its own, so that a resumed run drops the same elements.
    """
    size = run.choices.micro_batch_size
    starts = range(0, len(batch.ids), size)
    for start in starts:
        torch.manual_seed(key(run.config.training.seed, "dropout", step, start, run.processes.rank))
        yield batch.slice(start, start + size).to(run.hardware.device), start == starts[-1]


def trial_step(run: Run) -> None:
    """Compute the gradients of the next update as the loop does, and discard them: the run stays as it was."""
    run.optimizer.zero_grad(set_to_none=True)  # as in training: a CUDA graph would overwrite gradients that still exist
    for part, _ in micro_batches(run, next_batch(run, run.state.step), run.state.step):
        with run.hardware.autocast():
            nats = run.step_model(part.ids, part.targets, reduction="sum")
        nats.backward()
    run.hardware.wait()
    run.optimizer.zero_grad(set_to_none=True)


def is_due(run: Run, interval: Interval) -> bool:
    """Whether something with this interval is due at the current step. It is always due after the last step."""
    step = run.state.step
    if step == 0:
        return interval != 0
    if interval == "epoch":
        return run.order.ends_epoch(step) or step == run.max_steps
    return interval > 0 and (step % interval == 0 or step == run.max_steps)


def lacks_evaluation(run: Run) -> bool:
    """Whether an evaluation is due at the current step, but not in the log yet."""
    last = run.directory.metrics.last_row() if run.processes.is_main else None
    evaluated = last is not None and last["step"] == run.state.step and last.get("val_loss") is not None
    return is_due(run, run.intervals.evaluate) and not run.processes.max(evaluated)


def lacks_samples(run: Run) -> bool:
    """Whether samples are due at the current step, but not in the log yet."""
    last = run.directory.samples.last_row() if run.processes.is_main else None
    sampled = last is not None and last.get("step") == run.state.step
    return is_due(run, run.intervals.sample) and not run.processes.max(sampled)


def evaluate(run: Run) -> Evaluation:
    """Score the validation set, always the same windows; each process takes its share."""
    indices = evenly_spaced(len(run.data.validation), _evaluated_windows(run))
    own = indices[run.processes.share(len(indices))]
    model, data, autocast = run.model, run.data, run.hardware.autocast
    with run.clock.timing("evaluate"):
        part = evaluate_loss(model, data.validation, data.tokenizer.byte_lengths, own, autocast)
        nats, targets, size = (run.processes.sum(value) for value in (part.nats, part.targets, part.bytes))
    result = Evaluation(nats, int(targets), int(size))
    if not math.isfinite(result.loss):  # the weights are still finite, but the next loss would not be
        raise _diverged(run, f"the validation loss is {result.loss}")
    return result


def _evaluated_windows(run: Run) -> int:
    """How many windows an evaluation scores; 0: all, which is what a loss floor is about."""
    requested = run.config.run.eval_sequences
    if requested != "auto":
        return requested
    if run.data.floor is not None:
        return 0
    tokens = len(run.data.prepared.validation) / len(run.data.validation)
    return math.ceil(EVAL_TOKENS / min(tokens, run.config.model.max_seq_len))


def sample(run: Run) -> None:
    """Generate samples, print one and log all of them. The main process does so; the others wait at the next step."""
    if not run.processes.is_main:
        return
    seed = key(run.config.training.seed, "samples", run.state.step)
    config = GenerationConfig(max_new_tokens=SAMPLE_TOKENS, seed=seed)
    run.model.eval()
    autocast = run.hardware.autocast() if run.num_parameters > AUTOCAST_FROM else nullcontext()
    with autocast, run.clock.timing("sample"):
        texts = generate_many(run.model, run.data.tokenizer, [""] * run.config.run.sample_count, config)
    run.model.train()
    judge = run.data.judge
    accepted = judge.acceptance(texts) if judge else None
    row = {"step": run.state.step, "accepted": accepted, "samples": texts, "timestamp": timestamp()}
    run.directory.samples.append(row)
    judged = f" ({accepted:.0%} of {len(texts)} accepted by the {judge.name})" if judge else ""
    run.display.say(f"\nsample at step {run.state.step:,}{judged}:\n{printable(texts[0].strip())}\n")


def log_training(run: Run, loss: float, lr: float, grad_norm: float | None, tokens_per_second: float) -> None:
    """Write the line of a training step to metrics.jsonl."""
    _log(run, {"train_loss": loss, "lr": lr, "grad_norm": grad_norm, "tokens_per_second": tokens_per_second})


def log_evaluation(run: Run, scored: Evaluation) -> None:
    """Write the line of an evaluation to metrics.jsonl, after that of the step whose weights it scored."""
    _log(run, {"val_loss": scored.loss, "perplexity": scored.perplexity, "bits_per_byte": scored.bits_per_byte})


def _log(run: Run, values: dict[str, float | None]) -> None:
    """Every line has every field; null where the field was not measured."""
    if run.processes.is_main:
        row = {"step": run.state.step, **dict.fromkeys(MEASURED), **values}
        row = {**row, "tokens": run.state.tokens, "timestamp": timestamp()}
        run.directory.metrics.append(row)
        run.tracking.log(row)


def mark_best(run: Run, val_loss: float) -> None:
    """Mark the checkpoint of this step as the best where its validation loss is the lowest; prune the others."""
    state = run.state
    if run.processes.is_main and state.step > 0 and val_loss < state.best_val_loss:  # step 0 has no checkpoint
        state.best_val_loss, state.best_step = val_loss, state.step
        run.directory.mark_best(state.step, val_loss)
        run.directory.prune(state.step, state.best_step, run.config.run.keep_last)


def require_finite(run: Run, loss: float, norm: float | None) -> None:
    """Raise `DivergenceError` where the loss or its gradient is NaN or infinite, before that is saved.

    A `norm` of None means that gradients overflowed, as they may in fp16 until the loss scale is small enough.
    """
    if not math.isfinite(loss + (norm or 0.0)):
        raise _diverged(run, f"the loss is {loss} and the norm of its gradient {norm}")
    if run.scaling.scale < SMALLEST_SCALE:
        raise _diverged(run, f"gradients overflow fp16 even with a loss scale of {run.scaling.scale}")


def _diverged(run: Run, what: str) -> DivergenceError:
    narrow = ", or use --precision fp32" if run.hardware.precision != "fp32" else ""
    kept = " (the checkpoints before it are kept)" if run.directory.steps() else ""
    return DivergenceError(
        f"{what} at step {run.state.step:,}: training has diverged; lower --learning_rate or lengthen "
        f"--warmup_steps{narrow}{kept}"
    )


def save(run: Run) -> None:
    """Write a checkpoint of the current step, and delete those that are no longer needed."""
    with run.clock.timing("save"):
        if run.processes.is_main:
            _write_checkpoint(run)
            record_length(run)
        run.processes.barrier()  # no process exits while it is being written


def _write_checkpoint(run: Run) -> None:
    state = run.state
    if not all(parameter.isfinite().all() for parameter in run.model.parameters()):
        raise _diverged(run, "the model has non-finite weights")
    save_checkpoint(
        run.directory.checkpoint(state.step),
        run.model,
        run.optimizer,
        state.step,
        tokens=state.tokens,
        lengths=state.length.plans,
        seconds=run.clock.seconds,
        seconds_of=run.clock.latest,
        scaler=run.scaling.state(),
        metrics_offset=run.directory.metrics.offset(),
        samples_offset=run.directory.samples.offset(),
        tokenizer_fingerprint=run.data.tokenizer.fingerprint,
    )
    run.directory.prune(state.step, state.best_step, run.config.run.keep_last)
