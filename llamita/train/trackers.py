"""What `--track` mirrors metrics into: TensorBoard, Weights & Biases, trackio. Each is imported when it is used."""

import contextlib
import importlib.util
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from llamita.errors import UserError

PROJECT = "llamita"
"""The project of runs in wandb and trackio, unless WANDB_PROJECT or TRACKIO_PROJECT names another."""


class Tracker(Protocol):
    """One tracked run."""

    def log(self, values: Mapping[str, float], step: int, time: float | None) -> None:
        """Add numbers of a step; `time` in seconds since 1970."""
        ...

    def close(self) -> None:
        """End the tracked run, with everything written."""
        ...


class TensorBoard:
    """Event files in RUN/tensorboard: `tensorboard --logdir runs`."""

    def __init__(self, directory: Path, identifier: str, settings: Mapping[str, Any], *, continues: bool):
        from torch.utils.tensorboard import SummaryWriter

        folder = directory / "tensorboard"
        if not continues:
            for file in folder.glob("events.out.tfevents.*"):
                file.unlink()
        self._writer = SummaryWriter(str(folder))

    def log(self, values: Mapping[str, float], step: int, time: float | None) -> None:
        """Add one point per number, flushed: a kill loses none."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, walltime=time)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class Wandb:
    """A run of Weights & Biases, with its local files in RUN/wandb; WANDB_MODE=offline sends nothing."""

    def __init__(self, directory: Path, identifier: str, settings: Mapping[str, Any], *, continues: bool):
        import wandb

        project = os.environ.get("WANDB_PROJECT", PROJECT)
        options = wandb.Settings(console="off")  # by default, it replaces this process's standard output
        self._run = wandb.init(
            project=project,
            id=identifier,
            name=directory.name,
            dir=str(directory),
            config=dict(settings),
            resume="allow",
            settings=options,
        )

    def log(self, values: Mapping[str, float], step: int, time: float | None) -> None:
        """Add the numbers of a step; it stamps them with its own clock."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the run: uploads what is left."""
        self._run.finish()


class Trackio:
    """A run of trackio, in its local database: `trackio show`."""

    def __init__(self, directory: Path, identifier: str, settings: Mapping[str, Any], *, continues: bool):
        import trackio  # pyright: ignore[reportMissingImports]

        project, name = os.environ.get("TRACKIO_PROJECT", PROJECT), f"{directory.name}-{identifier}"
        self._run = trackio.init(project=project, name=name, config=dict(settings), resume="allow", embed=False)

    def log(self, values: Mapping[str, float], step: int, time: float | None) -> None:
        """Add the numbers of a step; it stamps them with its own clock."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()


TRACKERS = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio}


def require_tracker(name: str) -> None:
    """Raise `UserError` if the package of this tracker is not installed; "none" needs none."""
    if name == "none":
        return
    with contextlib.suppress(ImportError, ValueError):
        found = importlib.util.find_spec(name)
        if found is not None and found.origin:  # else a folder of that name, such as wandb's own ./wandb
            return
    raise UserError(f'--track {name} needs a package that is not installed: pip install "llamita[{name}]"')


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """What a line of metrics.jsonl measured, without the step and the time."""
    return {
        name: value
        for name, value in row.items()
        if name not in ("step", "timestamp") and isinstance(value, int | float)
    }


def seconds(row: Mapping[str, Any]) -> float | None:
    """The time of a line of metrics.jsonl, in seconds since 1970; older versions logged it so."""
    stamp = row.get("timestamp")
    return datetime.fromisoformat(stamp).timestamp() if isinstance(stamp, str) else stamp
