"""Going on: the newest good checkpoint is loaded, and the logs are cut back to it."""

import math

from llamita.train.build import Run, State
from llamita.train.checkpoint import load_verified


def resume(run: Run) -> None:
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
