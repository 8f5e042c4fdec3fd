"""Resuming: load the newest intact checkpoint, and cut the logs back to it."""

from collections.abc import Mapping
from typing import Any

from llamita.planning.length import Length
from llamita.train.build import Run, State
from llamita.train.checkpoint import Checkpoint, load_verified
from llamita.train.clocks import RunClock
from llamita.train.run_directory import Best


def resume(run: Run) -> None:
    """Load the newest intact checkpoint, and cut the logs back to it. Without one, start from scratch."""
    found = run.directory.newest_good()
    if found is None:
        if run.processes.is_main:
            run.directory.clear_logs()
        return
    checkpoint, complaints = found
    for complaint in complaints:
        run.display.say(f"note: {complaint}; resuming from {checkpoint.path.name} instead")
    load_verified(checkpoint, run.model, run.optimizer)
    manifest = checkpoint.manifest
    run.state = State(manifest["step"], manifest["tokens"], _length(run, manifest))
    run.clock = RunClock(manifest.get("seconds", 0.0), manifest.get("seconds_of"))
    run.scaling = run.hardware.scaling(manifest.get("scaler"))
    if run.processes.is_main:
        run.directory.truncate_logs(checkpoint)
        _remember_best(run, checkpoint)
        # The run may have been killed after it saved this checkpoint and before it deleted older ones.
        run.directory.prune(run.state.step, run.state.best_step, run.config.run.keep_last, spare_newer=True)


def _length(run: Run, manifest: Mapping[str, Any]) -> Length:
    """The plans up to this checkpoint; where the settings fix the number of steps, it may have been raised since."""
    return run.state.length if run.config.training.max_steps else Length.of(manifest["lengths"])


def _remember_best(run: Run, checkpoint: Checkpoint) -> None:
    """Find the lowest validation loss up to this checkpoint, and mark its step if that is not done yet.

    It is in the log, in best.json, and in the manifests of older versions. A mark of a later step, or of a checkpoint
    that was written again, is ignored.
    """
    state, directory, manifest = run.state, run.directory, checkpoint.manifest
    marked = directory.marked_best(state.step)
    found = [marked] if marked else []
    if manifest.get("best_val_loss") is not None:
        found.append(Best(manifest["best_val_loss"], manifest["best_step"]))
    for row in directory.metrics.rows():
        if row.get("val_loss") is not None and 0 < row["step"] <= state.step:
            found.append(Best(row["val_loss"], row["step"]))
    if not found:
        return
    state.best_val_loss, state.best_step = best = min(found)
    if best != marked and directory.checkpoint(best.step).exists():
        directory.mark_best(best.step, best.val_loss)
