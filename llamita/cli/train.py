"""`llamita train`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from llamita.cli.flags import FILES, OUTPUT, DataFlags, ExecutionFlags, ModelFlags, OptimizerFlags, TrainingFlags
from llamita.config import (
    DataConfig,
    ExecutionConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
    is_of_a_run,
)
from llamita.console import shell_line

if TYPE_CHECKING:
    from llamita.train import RunDirectory


def train(
    *,
    preset: Annotated[str, FILES] = "",
    config: Annotated[Path | None, FILES] = None,
    json: Annotated[bool, OUTPUT] = False,
    model: ModelFlags = ModelConfig(),  # noqa: B008  (frozen)
    data: DataFlags = DataConfig(),  # noqa: B008
    optimizer: OptimizerFlags = OptimizerConfig(),  # noqa: B008
    training: TrainingFlags = TrainingConfig(),  # noqa: B008
    run: ExecutionFlags = ExecutionConfig(),  # noqa: B008
) -> None:
    """Train a model; without flags, a small Llama on the built-in stories. The same command resumes the run.

    Parameters
    ----------
    preset: str
        A named configuration: `llamita presets` lists them. --config and flags override it.
    config: Path
        A TOML file with the tables [model], [data], [optimizer], [training] and [run]. Flags override it. The
        config.toml of a run repeats that run, with the same choices for `auto` on the same processor.
    json: bool
        Print nothing but the result to standard output, as one line of JSON; progress goes to standard error.
    """
    from llamita.parallel import is_main_process
    from llamita.train import Display, RunDirectory
    from llamita.train import train as train_run

    repeated = config if config and is_of_a_run(config) else None
    path = train_run(RunConfig(model, data, optimizer, training, run), Display(json=json), repeated=repeated)
    if is_main_process() and not json:
        _conclude(RunDirectory(path))


def _conclude(directory: "RunDirectory") -> None:
    """The last lines: what to try next, and the validation loss next to its floor."""
    facts = directory.facts()
    losses = [row["val_loss"] for row in directory.metrics.rows() if row.get("val_loss") is not None]
    scored = losses[-1] if losses else math.nan
    print("\nTry next:")
    print(f"  {shell_line('llamita', 'generate', directory.path)}")
    print(f"  {shell_line('llamita', 'eval', directory.path)}")
    floor, unigram = facts.get("loss_floor"), facts["unigram_entropy"]
    if floor is None:
        print(f"unigram entropy {unigram:.4f} nats/token, validation loss {scored:.4f}")
        return
    share = (scored - floor) / (unigram - floor)
    print(f"{share:.2%} of the way from the floor up to the unigram entropy {unigram:.4f}")
    print(f"loss floor {floor:.4f} nats/token, validation loss {scored:.4f}, {scored - floor:.4f} above it")
