"""`llamita ablate`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from llamita.cli.flags import FILES, DataFlags, ExecutionFlags, ModelFlags, OptimizerFlags, TrainingFlags
from llamita.config import (
    DataConfig,
    ExecutionConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
    replace,
    whole_number,
)
from llamita.console import command_line, shell_line
from llamita.errors import UserError

if TYPE_CHECKING:
    from llamita.experiments import Ablation


def ablate(
    *,
    variants: str = "",
    vary: list[str] | None = None,
    ladder: str = "",
    seeds: int = 5,
    widths: str = "",
    tune: str = "",
    code: Path | None = None,
    runner: str = "local",
    preset: Annotated[str, FILES] = "",
    config: Annotated[Path | None, FILES] = None,
    model: ModelFlags = ModelConfig(),  # noqa: B008  (frozen)
    data: DataFlags = DataConfig(),  # noqa: B008
    optimizer: OptimizerFlags = OptimizerConfig(),  # noqa: B008
    training: TrainingFlags = TrainingConfig(),  # noqa: B008
    run: ExecutionFlags = ExecutionConfig(),  # noqa: B008
) -> None:
    """Compare variants of a model over several seeds, in pairs; without flags: no norm, post-norm, no positions.

    Parameters
    ----------
    variants: str
        Named variants, separated by commas: no-norm, post-norm, nope, learned-positions, layernorm, gelu, relu2, mqa,
        gqa, mha, untied, qk-norm, gpt2-baseline.
    vary: list[str]
        A setting and its values, as in learning_rate=3e-4,1e-3; several make a grid.
    ladder: str
        gpt2-to-llama: from GPT-2's architecture to Llama's, one switch at a time.
    seeds: int
        Runs of each variant. More seeds extend a finished ablation.
    widths: str
        Hidden sizes at which everything is repeated, separated by commas.
    tune: str
        learning_rate: choose the best of three for each variant first.
    code: Path
        Another checkout of llamita, or a Python file with a subclass of `Llama`: one more variant, of changed code.
    runner: str
        local: this machine, one run per GPU or, on a CPU, one after another; slurm: a Slurm job for each run; ray: a
        Ray task for each run.
    preset: str
        A named configuration as the base; default: ablation, a small model. --config and flags
        override it.
    config: Path
        A TOML file as the base, as for `train`.
    """
    from llamita.experiments import Ablation
    from llamita.experiments.ablate import default_directory
    from llamita.experiments.clusters import runner_named

    base = replace(RunConfig(model, data, optimizer, training, run), output_dir="", name="")
    ablation = Ablation(base, _split(variants), _grid(vary), ladder, seeds, _widths(widths), tune, str(code or ""))
    plan = ablation.plan()
    directory = Path(run.output_dir) if run.output_dir else default_directory(plan)
    runs_on = runner_named(runner, directory.with_name(f"{directory.name}-jobs"))
    _announce(ablation, len(plan.runs), directory)
    report = ablation.run(directory, runs_on, command_line.get())
    for result in report.results:
        if result.status == "failed":
            print(f"note: {result.run.name} failed: {result.outcome.error}", file=sys.stderr)
    print(f"\n{report.text()}")


def _announce(ablation: "Ablation", runs: int, directory: Path) -> None:
    """What is compared, and where its runs are."""
    from llamita.experiments.ablate import DEFAULT_VARIANTS
    from llamita.experiments.ablation import unchanged_variants
    from llamita.experiments.variants import VARIANTS

    bare = not (ablation.ladder or ablation.grid or ablation.code)
    named = ablation.variants or (DEFAULT_VARIANTS if bare else ())
    unchanged = unchanged_variants(ablation.base, named)
    for name in named:
        if name in unchanged:
            print(f"note: {name} is left out: the base configuration already is that", file=sys.stderr)
        else:
            print(f"{name}: {VARIANTS[name].tests}")
    print(f"{runs:,} runs in {shell_line(directory)}; the same command resumes them")


def _split(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


def _grid(vary: list[str] | None) -> dict[str, list]:
    from llamita.experiments.ablation import parse_grid

    return parse_grid(vary or [])


def _widths(listed: str) -> list[int]:
    """Hidden sizes. Raises `UserError` for what is no whole number."""
    try:
        found = [whole_number(width) for width in _split(listed)]
    except ValueError:
        found = [None]
    if any(width is None for width in found):
        raise UserError(f"--widths is {listed}, but must be whole numbers separated by commas, such as 128,256")
    return [width for width in found if width is not None]
