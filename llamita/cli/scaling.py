"""`llamita scaling`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from llamita.cli.flags import FILES, DataFlags, ExecutionFlags, ModelFlags, OptimizerFlags, TrainingFlags
from llamita.config import (
    DataConfig,
    ExecutionConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
)
from llamita.console import command_line, shell_line
from llamita.errors import UserError

if TYPE_CHECKING:
    from llamita.experiments.scaling import ScalingLaw, Study

WIDTHS, BUDGETS, FACTOR = "64,96,128,160,192", "6e12,1.2e13,2.4e13", 4.0
OF_THE_LADDER = "size", "depth", "hidden_size", "num_layers", "max_steps", "epochs", "minutes", "warmup_steps"
"""Settings that differ from run to run."""
FLAGS = "--widths", "--budgets", "--repeat"


def scaling(
    *,
    widths: str = WIDTHS,
    budgets: str = BUDGETS,
    held_out: float = FACTOR,
    repeat: str = "",
    predict: float = 0.0,
    preset: Annotated[str, FILES] = "",
    config: Annotated[Path | None, FILES] = None,
    model: ModelFlags = ModelConfig(),  # noqa: B008  (frozen)
    data: DataFlags = DataConfig(),  # noqa: B008
    optimizer: OptimizerFlags = OptimizerConfig(),  # noqa: B008
    training: TrainingFlags = TrainingConfig(),  # noqa: B008
    run: ExecutionFlags = ExecutionConfig(),  # noqa: B008
) -> None:
    """Fit a scaling law to a ladder of runs, predict a larger one, train that one, compare. The same command resumes.

    Parameters
    ----------
    widths: str
        Hidden sizes of the ladder, separated by commas; one layer per 64 of width, and at least two.
    budgets: str
        Training FLOPs of its runs, separated by commas: each width is trained at each budget.
    held_out: float
        The held-out run has this many times the largest budget; its loss is predicted before it starts. 0: none.
    repeat: str
        Epochs, separated by commas: runs of the middle width that repeat the text so often.
    predict: float
        Only print the best model and its loss for this many FLOPs, from a finished ladder.
    preset: str
        A named configuration as the base; default: scaling, 200,000 built-in stories. --config and flags override it.
    config: Path
        A TOML file as the base, as for `train`.
    """
    base = RunConfig(model, data, optimizer, training, run)
    directory = Path(run.output_dir) if run.output_dir else _default_directory(base)
    if not 0 <= predict < math.inf or not 0 <= held_out < math.inf:
        raise UserError("--predict and --held_out must be positive numbers")
    if predict:
        return _predict(directory, predict)
    _require_extra()
    _require_free(base)
    _study(base, directory, (widths, budgets, repeat), held_out)


def _study(base: RunConfig, directory: Path, listed: tuple[str, str, str], held_out: float) -> None:
    """Compute the ladder, fit, predict, train the held-out run, compare, plot."""
    from llamita.experiments.scaling import Study, base_of, make_plan, measure_text, train_held_out
    from llamita.experiments.scaling.plot import write_plot
    from llamita.experiments.sweep import Sweep

    widths, budgets, epochs = (_numbers(text, flag) for text, flag in zip(listed, FLAGS, strict=True))
    base = base_of(base)
    plan = make_plan(base, measure_text(base), [int(width) for width in widths], budgets, epochs)
    sweep = Sweep.open(directory, plan, command_line.get())
    print(f"{len(plan.runs):,} runs in {shell_line(directory)}; the same command resumes them")
    sweep.run()
    study = Study(sweep)
    _tell_law(study)
    comparison = None
    if held_out:
        prediction = study.predict_held_out(held_out)
        _tell_prediction(prediction)
        comparison = train_held_out(study, prediction)
        _tell_comparison(comparison)
    study.report(comparison)
    paths = write_plot(study, comparison)
    print(f"plots: {', '.join(str(path) for path in paths)}")
    print(f"Try next:\n  {shell_line('llamita', 'scaling', '--output_dir', directory, '--predict', '1e15')}")


def _numbers(listed: str, flag: str) -> list[float]:
    """Positive numbers separated by commas. Raises `UserError`."""
    try:
        found = [float(word) for word in listed.split(",") if word.strip()]
    except ValueError:
        found = [-1.0]
    if any(not 0 < value < math.inf for value in found) or (flag == "--widths" and any(v % 1 for v in found)):
        raise UserError(f"{flag} is {listed}, but must be positive numbers separated by commas")
    return found


def _predict(directory: Path, flops: float) -> None:
    _require_extra()
    from llamita.experiments.scaling import Study
    from llamita.experiments.scaling.ladder import si

    study = Study.load(directory)
    best = study.recommend(flops)
    low, high = best.parameters_interval
    largest = max(result.flops for result in study.results)
    print(f"{flops:.3g} FLOPs, {flops / largest:.3g} times the largest of the {len(study.points)} runs of the fit")
    print(f"model   {best.width} wide, {best.size.model.num_layers} layers: {si(best.size.parameters)} parameters")
    print(f"        ({si(best.size.non_embedding)} without embedding; 95 % interval {si(low)} to {si(high)})")
    print(f"tokens  {si(best.tokens)}, {best.tokens / best.size.parameters:.3g} per parameter")
    print(f"loss    {best.loss:.4f} nats per token ({best.loss_interval[0]:.4f} to {best.loss_interval[1]:.4f})")
    if best.tokens > study.text.tokens:
        print(f"note: the text has {si(study.text.tokens)} tokens: {best.tokens / study.text.tokens:.3g} epochs of it")


def _tell_law(study: "Study") -> None:
    """The constants with their intervals, the parabolas, what repetition is worth."""
    from llamita.experiments.scaling.ladder import si

    print(f"\nL(N, D) = E + A/N^alpha + B/D^beta, fitted to {len(study.points)} runs (95 % bootstrap intervals)")
    if study.floor is None:
        _tell_constants(study.law, study.laws)
    else:
        print(f"with E = {study.floor:.4f}, the loss floor of this text:")
        _tell_constants(study.law, study.laws)
        print("with E fitted, as where it is unknown:")
        _tell_constants(study.free_law, study.free_laws)
    if note := study.doubt:
        print(f"note: {note}")
    for parabola in study.parabolas:
        low, high = si(parabola.low), si(parabola.high)
        print(f"  {parabola.flops:.3g} FLOPs: best at {si(parabola.parameters)} parameters ({low} to {high})")
    if study.power:
        print(f"  best parameters grow as FLOPs^{study.power.exponent:.2f}")
    if study.repetition is not None:
        print(f"  repeated text: R* = {study.repetition:.3g} (15.4 on C4, Muennighoff et al., 2023)")


def _tell_constants(law: "ScalingLaw", laws: "list[ScalingLaw]") -> None:
    from llamita.experiments.scaling.law import constants, interval, shown

    for name, value in constants(law).items():
        low, high = interval([constants(each)[name] for each in laws])
        print(f"  {name:<6} {shown(value):<10} {shown(low)} to {shown(high)}")


def _tell_prediction(prediction: dict[str, Any]) -> None:
    low, high = prediction["low"], prediction["high"]
    name = prediction["run"]["name"]
    print(f"\npredicted for {name}: {prediction['loss']:.4f} ({low:.4f} to {high:.4f})", flush=True)


def _tell_comparison(comparison: dict[str, Any]) -> None:
    share = comparison["error_of_distance"]
    floor = "" if share is None else f", {share:+.1%} of its distance to the floor"
    print(f"trained: {comparison['trained_loss']:.4f}; error {comparison['relative_error']:+.2%} of the loss{floor}")


def _default_directory(base: RunConfig) -> Path:
    from llamita.corpus import short_name

    return Path("runs") / f"scaling-{base.run.name or short_name(base.data.data[0])}"


def _require_free(base: RunConfig) -> None:
    """Raise `UserError` for a setting that the ladder sets."""
    defaults = RunConfig().tables()
    for table, rows in base.asked_for().items():
        for name in OF_THE_LADDER:
            if name in rows and rows[name] != defaults[table][name]:
                raise UserError(f"--{name}: the ladder sets it: leave it out, and give --widths and --budgets")


def _require_extra() -> None:
    try:
        import scipy  # noqa: F401
    except ImportError:
        raise UserError('scaling laws are fitted with scipy: pip install "llamita[experiments]"') from None
