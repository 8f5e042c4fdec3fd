"""The ladder of runs that a scaling law is fitted to: model sizes by budgets, shaped by fixed rules.

- Shape: one layer per 64 of width, as in GPT-2's and GPT-3's smallest model (768 wide, 12 layers), and at least two: a
  model with one layer cannot continue a repeated sequence by induction (Olsson et al., 2022).
- Learning rate: that of `config.optimizer.default_learning_rate`, inversely proportional to the width (Yang et al.,
  2022), unless the user sets it.
- Batch: proportional to the square root of the tokens of the run, close to the measured exponent 0.47 of the critical
  batch size (Zhang et al., 2024), so that a short run has enough steps.
- Each run is one schedule to its own end, with warmup over its first tenth: a loss in the middle of a longer schedule
  is not that of a shorter run (Hoffmann et al., 2022, appendix B).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llamita.config import ModelConfig, RunConfig, replace
from llamita.errors import UserError
from llamita.experiments.plan import Plan, PlannedRun
from llamita.experiments.scaling.law import Points, require_enough_points
from llamita.planning import count_parameters
from llamita.planning.peak import flops_per_token

KIND = "scaling"
WIDTH_PER_LAYER, FEWEST_LAYERS = 64, 2
WARMUP_SHARE = 0.1
REFERENCE_TOKENS = 2.0**24
"""Tokens of a run whose batch is `batch_size`; other runs have that times the square root of their share."""
FEWEST_STEPS = 10
ROUNDING = 1.005
"""Runs are whole steps: one of a single epoch may end a few sequences after it."""
FEWEST_TOKENS_PER_PARAMETER = 2.0
"""Runs with fewer are far from the best of their budget, and left out."""


@dataclass(frozen=True)
class Text:
    """What a ladder has to know of its training text.

    Attributes:
        vocab_size: the tokenizer's.
        tokens: unique tokens of training.
        windows: training sequences; a run's batch is a number of them.
    """

    vocab_size: int
    tokens: int
    windows: int

    @property
    def tokens_per_window(self) -> float:
        """Targets of a sequence, on average."""
        return self.tokens / self.windows


@dataclass(frozen=True)
class Size:
    """A model of the ladder: its width and what follows from it."""

    model: ModelConfig

    @property
    def parameters(self) -> int:
        """All parameters, embedding included: N of the law."""
        return sum(count_parameters(self.model).values())

    @property
    def non_embedding(self) -> int:
        """Parameters without token embedding and head."""
        return self.parameters - self.model.vocab_size * self.model.hidden_size * (2 - self.model.tie_embeddings)

    @property
    def flops_per_token(self) -> int:
        """FLOPs of training per token, head and attention included."""
        return flops_per_token(self.model, self.parameters)


def layers_of(width: int) -> int:
    """The number of layers of a model `width` wide."""
    return max(FEWEST_LAYERS, round(width / WIDTH_PER_LAYER))


def size_of(base: RunConfig, text: Text, width: int) -> Size:
    """The model `width` wide. Raises `UserError` for a width that has no such model."""
    settings = {"hidden_size": width, "num_layers": layers_of(width), "vocab_size": text.vocab_size}
    return Size(replace(base, **settings).model)


def batch_of(base: RunConfig, tokens: float) -> int:
    """Sequences per update of a run of so long."""
    return max(1, round(base.training.batch_size * math.sqrt(tokens / REFERENCE_TOKENS)))


def run_of(base: RunConfig, text: Text, width: int, tokens: float) -> PlannedRun:
    """A run of the model `width` wide on about `tokens`, in whole steps. Raises `UserError` where these are too few."""
    batch = batch_of(base, tokens)
    steps = round(tokens / (batch * text.tokens_per_window))
    if steps < FEWEST_STEPS:
        raise UserError(
            f"{tokens:,.0f} tokens are {steps} steps of a model {width} wide, and a run needs {FEWEST_STEPS}: raise "
            "--budgets, or leave out the largest --widths"
        )
    settings = {
        "hidden_size": width,
        "num_layers": layers_of(width),
        "batch_size": batch,
        "max_steps": steps,
        "warmup_steps": max(1, round(WARMUP_SHARE * steps)),
    }
    name = f"{width}-{si(steps * batch * text.tokens_per_window)}"
    return PlannedRun.of(name, base.training.seed, settings)


def ladder(base: RunConfig, text: Text, widths: Sequence[int], budgets: Sequence[float]) -> Iterator[PlannedRun]:
    """Every width at every budget in FLOPs, where the text has enough tokens; the middle width comes first.

    Left out are runs that would repeat text (`repetition.py`), and those with fewer than two tokens per parameter.
    """
    sizes = {width: size_of(base, text, width) for width in sorted(widths)}
    for width, size in sorted(sizes.items(), key=lambda item: abs(math.log(item[0] / sorted(sizes)[len(sizes) // 2]))):
        for budget in sorted(budgets):
            tokens = budget / size.flops_per_token
            if FEWEST_TOKENS_PER_PARAMETER * size.parameters <= tokens <= text.tokens:
                yield run_of(base, text, width, tokens)


def make_plan(
    base: RunConfig, text: Text, widths: Sequence[int], budgets: Sequence[float], epochs: Sequence[float] = ()
) -> Plan:
    """The ladder as a sweep; `epochs` adds runs of the middle width that repeat the text. Raises `UserError`."""
    if not widths or not budgets:
        raise UserError("a ladder needs sizes and budgets: give --widths and --budgets")
    middle = sorted(widths)[len(widths) // 2]
    runs = [*ladder(base, text, widths, budgets), *repeated(base, text, middle, epochs)]
    require_enough_points(_planned(base, text, runs))
    details = {"widths": sorted(widths), "budgets": sorted(budgets), "epochs": sorted(epochs), "text": vars(text)}
    return Plan(KIND, base, tuple(runs), details)


def _planned(base: RunConfig, text: Text, runs: Sequence[PlannedRun]) -> Points:
    """Sizes and tokens of the planned runs that repeat no text; their losses are unknown."""
    tokens = [run.settings["max_steps"] * run.settings["batch_size"] * text.tokens_per_window for run in runs]
    sizes = [size_of(base, text, run.settings["hidden_size"]).parameters for run in runs]
    N, D = np.array(sizes, dtype=float), np.array(tokens, dtype=float)
    return Points(N, D, np.full(len(runs), math.nan)).take(ROUNDING * text.tokens >= D)


def repeated(base: RunConfig, text: Text, width: int, epochs: Sequence[float]) -> Iterator[PlannedRun]:
    """Runs of one width that see all of the text each number of `epochs`."""
    for passes in epochs:
        yield run_of(base, text, width, passes * text.tokens)


def si(value: float) -> str:
    """A count in short: 1.25M."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"
