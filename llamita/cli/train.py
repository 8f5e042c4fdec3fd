"""`llamita train`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from llamita.cli.flags import DataFlags, ExecutionFlags, ModelFlags, OptimizerFlags, TrainingFlags
from llamita.config import (
    DataConfig,
    ExecutionConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
    is_of_a_run,
)

if TYPE_CHECKING:
    from llamita.train import RunDirectory


def train(
    *,
    preset: str = "",
    config: Path | None = None,
    model: ModelFlags = ModelConfig(),  # noqa: B008  (frozen)
    data: DataFlags = DataConfig(),  # noqa: B008
    optimizer: OptimizerFlags = OptimizerConfig(),  # noqa: B008
    training: TrainingFlags = TrainingConfig(),  # noqa: B008
    run: ExecutionFlags = ExecutionConfig(),  # noqa: B008
) -> None:
    """Train a model; without flags, a small Llama on the built-in stories. The same command goes on where it stopped.

    Parameters
    ----------
    preset: str
        A named configuration, of those that `llamita presets` lists. --config and flags win over it.
    config: Path
        A TOML file with the tables [model], [data], [optimizer], [training] and [run]. Flags win over it. That of a run
        repeats the run: what `auto` chose there is chosen again, where model shape and processor are the same.
    """
    from llamita.parallel import is_main_process
    from llamita.train import RunDirectory
    from llamita.train import train as train_run

    repeated = config if config and is_of_a_run(config) else None
    path = train_run(RunConfig(model, data, optimizer, training, run), repeated=repeated)
    if is_main_process():
        _conclude(RunDirectory(path))


def _conclude(directory: "RunDirectory") -> None:
    """The last lines: what to try next, and how far the loss is from its floor."""
    facts = directory.facts()
    losses = [row["val_loss"] for row in directory.metrics.rows() if row.get("val_loss") is not None]
    scored = losses[-1] if losses else math.nan
    print("\nTry next:")
    print(f"  llamita generate --checkpoint {directory.path}")
    print(f"  llamita eval --checkpoint {directory.path}")
    floor, unigram = facts.get("loss_floor"), facts["unigram_entropy"]
    if floor is None:
        print(f"unigram entropy {unigram:.4f} nats/token, validation loss {scored:.4f}")
        return
    share = (scored - floor) / (unigram - floor)
    print(f"{share:.2%} of the way from the floor up to the unigram entropy {unigram:.4f}")
    print(f"loss floor {floor:.4f} nats/token, validation loss {scored:.4f}, {scored - floor:.4f} above it")
