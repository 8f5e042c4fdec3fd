"""A scaling study: compute the ladder, fit it, predict a larger run, train that run, compare.

DIRECTORY/sweep.toml  128-1.2M-seed0/  …   the ladder, a resumable sweep
DIRECTORY/prediction.json                  what the fit says of the held-out run, written before that run starts
DIRECTORY/held-out/                        the held-out run, a sweep of one
DIRECTORY/scaling.json                     every run, the fits, and how the prediction did
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llamita.config import RunConfig, replace
from llamita.data import open_dataset
from llamita.errors import UserError
from llamita.experiments.plan import Plan, PlannedRun
from llamita.experiments.result import Result
from llamita.experiments.scaling.allocation import Allocation, Candidates
from llamita.experiments.scaling.isoflop import Parabola, PowerLaw, fit_parabola, fit_power
from llamita.experiments.scaling.ladder import KIND, ROUNDING, Size, Text, run_of
from llamita.experiments.scaling.law import Points, ScalingLaw, bootstrap_laws, fit_law, interval
from llamita.experiments.scaling.repetition import fit_repetition
from llamita.experiments.sweep import MANIFEST_FILE, Sweep
from llamita.files import write_json

PREDICTION_FILE, REPORT_FILE, HELD_OUT = "prediction.json", "scaling.json", "held-out"
RESAMPLES = 200  # of the bootstrap
WIDEST_INTERVAL = 0.25
"""Of E, as a share of the smallest loss: where it is wider, the runs do not determine E."""
SMALLEST_FLOOR = 0.01
"""The same for E itself: no text is free of uncertainty."""


def measure_text(base: RunConfig) -> Text:
    """What a ladder has to know of the text of `base`; tokenizes it if need be. Raises `UserError`."""
    data = open_dataset(base)
    return Text(data.tokenizer.vocab_size, data.train.num_targets, len(data.train))


@dataclass(frozen=True)
class Study:
    """What the finished runs of a scaling sweep say."""

    sweep: Sweep

    @classmethod
    def load(cls, directory: str | Path) -> "Study":
        """The study in `directory`. Raises `UserError` if there is none, or if it is a sweep of another kind."""
        path = Path(directory)
        if not (path / MANIFEST_FILE).exists():
            raise UserError(f"{path}: holds no scaling sweep: run llamita scaling first, or name one with --output_dir")
        sweep = Sweep.load(path)
        if sweep.plan.kind != KIND:
            raise UserError(f"{path}: holds a sweep of another kind, {sweep.plan.kind}: choose another --output_dir")
        return cls(sweep)

    @property
    def text(self) -> Text:
        """The text that the ladder was planned for."""
        return Text(**self.sweep.plan.details["text"])

    @cached_property
    def results(self) -> list[Result]:
        """The finished runs of the ladder."""
        return [result for result in self.sweep.results() if result.status == "finished"]

    @property
    def floor(self) -> float | None:
        """The loss floor of the text, in nats per token; None where it is unknown."""
        return self.results[0].loss_floor if self.results else None

    @cached_property
    def points(self) -> Points:
        """Parameters, tokens and final validation losses of the finished runs that repeat no text."""
        return _points(self.single_epoch)

    @cached_property
    def single_epoch(self) -> list[Result]:
        """The finished runs that repeat no text."""
        return [result for result in self.results if result.tokens <= ROUNDING * self.text.tokens]

    @cached_property
    def repeating(self) -> Points:
        """The points of those that do."""
        return _points([result for result in self.results if result.tokens > ROUNDING * self.text.tokens])

    @cached_property
    def law(self) -> ScalingLaw:
        """The parametric law; E is the loss floor, where it is known. Raises `UserError` if the runs are too few."""
        return self.free_law if self.floor is None else fit_law(self.points, self.floor)

    @cached_property
    def laws(self) -> list[ScalingLaw]:
        """Its bootstrap."""
        return self.free_laws if self.floor is None else self._bootstrap(self.law, self.floor)

    @cached_property
    def free_law(self) -> ScalingLaw:
        """The law with E fitted, whether the loss floor is known or not."""
        return fit_law(self.points)

    @cached_property
    def free_laws(self) -> list[ScalingLaw]:
        """Its bootstrap."""
        return self._bootstrap(self.free_law)

    def _bootstrap(self, law: ScalingLaw, floor: float | None = None) -> list[ScalingLaw]:
        return bootstrap_laws(self.points, law, RESAMPLES, floor)

    @property
    def doubt(self) -> str | None:
        """Why a law with a fitted E should not be trusted beyond its runs, in a line; None where it may be."""
        low, high = interval([law.E for law in self.free_laws])
        least = self.points.L.min()
        if high - low <= WIDEST_INTERVAL * least and SMALLEST_FLOOR * least < self.free_law.E:
            return None
        return (
            f"these runs do not determine E ({low:.3g} to {high:.3g}), so the law says little about larger ones: their "
            "losses are still far above it; choose larger --budgets"
        )

    @cached_property
    def parabolas(self) -> list[Parabola]:
        """The isoFLOP parabolas, of the budgets that show their best model."""
        points = {budget: _points(results) for budget, results in self.by_budget.items()}
        found = (fit_parabola(budget, each.N, each.L) for budget, each in points.items())
        return [parabola for parabola in found if parabola is not None]

    @property
    def by_budget(self) -> dict[float, list[Result]]:
        """Budget in FLOPs -> the single-epoch runs that are closest to it."""
        budgets = np.array(self.sweep.plan.details["budgets"], dtype=float)
        found: dict[float, list[Result]] = {float(budget): [] for budget in budgets}
        for result in self.single_epoch:
            found[float(budgets[np.abs(np.log(budgets / result.flops)).argmin()])].append(result)
        return found

    @property
    def power(self) -> PowerLaw | None:
        """How the minima of the parabolas grow with the budget; None for fewer than two."""
        return fit_power(self.parabolas)

    @cached_property
    def repetition(self) -> float | None:
        """R*, what repetitions of the text are worth at most, in texts; None without runs that repeat it."""
        return fit_repetition(self.repeating, self.law, self.text.tokens) if len(self.repeating) else None

    def recommend(self, flops: float, *, unique: bool = False) -> Allocation:
        """The best model for a budget; `unique`: of those for which the text has enough tokens."""
        most = self.text.tokens if unique else math.inf
        return Candidates(self.sweep.plan.base, self.text, flops).best(self.law, self.laws, most)

    def predict_held_out(self, factor: float) -> dict[str, Any]:
        """The prediction for the best model of `factor` times the largest compute of the fit.

        It is written to prediction.json once, before that run starts, and never again.
        """
        file = self.sweep.path / PREDICTION_FILE
        if not file.exists():
            flops = factor * max(result.flops for result in self.results)
            write_json(file, self._prediction(flops))
        return json.loads(file.read_text(encoding="utf-8"))

    def _prediction(self, flops: float) -> dict[str, Any]:
        best = self.recommend(flops, unique=True)
        run = run_of(self.sweep.plan.base, self.text, best.width, best.tokens)
        steps, batch = run.settings["max_steps"], run.settings["batch_size"]
        tokens = min(steps * batch * self.text.tokens_per_window, self.text.tokens)
        losses = [float(law.loss(best.size.parameters, tokens)) for law in (self.law, *self.laws)]
        return {
            "run": {"name": run.name, "group": run.group, "seed": run.seed, "settings": dict(run.settings)},
            "parameters": best.size.parameters,
            "tokens": tokens,
            "flops": tokens * best.size.flops_per_token,
            "loss": losses[0],
            "low": float(np.quantile(losses[1:], 0.025)),
            "high": float(np.quantile(losses[1:], 0.975)),
            "loss_with_fitted_E": float(self.free_law.loss(best.size.parameters, tokens)),
            "fitted_runs": len(self.points),
            "largest_flops_of_the_fit": max(result.flops for result in self.results),
        }

    def report(self, comparison: dict[str, Any] | None = None) -> dict[str, Any]:
        """Everything as one dictionary; written to scaling.json."""
        found = {
            "law": vars(self.law),
            "bootstrap": [vars(law) for law in self.laws],
            "free_law": vars(self.free_law),
            "free_bootstrap": [vars(law) for law in self.free_laws],
            "loss_floor": self.floor,
            "runs": [row_of(result, self.text) for result in self.results],
            "parabolas": [vars(parabola) for parabola in self.parabolas],
            "power": vars(self.power) if self.power else None,
            "repetition": self.repetition,
            "held_out": comparison,
        }
        write_json(self.sweep.path / REPORT_FILE, found)
        return found


def train_held_out(study: Study, prediction: dict[str, Any]) -> dict[str, Any]:
    """Train the run that was predicted, and compare -> the prediction with the loss and its errors.

    `relative_error` is a share of the loss; `error_of_distance` a share of its distance to the floor, or None where the
    floor is unknown.
    """
    plan = Plan(f"{KIND} held-out", study.sweep.plan.base, (PlannedRun(**prediction["run"]),))
    (result,) = Sweep.open(study.sweep.path / HELD_OUT, plan).run()
    if result.status != "finished":
        raise UserError(f"{result.path}: the held-out run {result.status}: {result.outcome.error}")
    error = prediction["loss"] - result.val_loss
    distance = None if study.floor is None else result.val_loss - study.floor
    return {
        **prediction,
        "trained_tokens": result.tokens,
        "trained_loss": result.val_loss,
        "relative_error": error / result.val_loss,
        "error_of_distance": None if distance is None else error / distance,
    }


def row_of(result: Result, text: Text) -> dict[str, Any]:
    """A finished run as a row of the table: sizes, tokens, FLOPs, loss."""
    return {
        "run": result.run.name,
        "width": result.model.hidden_size,
        "layers": result.model.num_layers,
        "parameters": result.parameters,
        "non_embedding": Size(result.model).non_embedding,
        "tokens": result.tokens,
        "epochs": result.tokens / text.tokens,
        "flops": result.flops,
        "loss": result.val_loss,
    }


def _points(results: Sequence[Result]) -> Points:
    rows = [(result.parameters, result.tokens, result.val_loss) for result in results]
    return Points(*np.array(rows, dtype=float).reshape(-1, 3).T)


def base_of(config: RunConfig) -> RunConfig:
    """`config` as the base of a ladder: evaluated at the end only, no samples, no directory of its own."""
    return replace(config, output_dir="", name="", sample_every=0, eval_every=10**9)
