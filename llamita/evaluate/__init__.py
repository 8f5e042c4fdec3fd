"""How good a model is: `loss` and `positions` score given text, `writing` measures generated text, `plots` draws."""

from llamita.evaluate.copying import CopiedSpan, longest_copied_span
from llamita.evaluate.loss import Evaluation, evaluate_loss, evenly_spaced, unigram_entropy
from llamita.evaluate.positions import PositionLosses, evaluate_positions
from llamita.evaluate.writing import Writing, distinct, measure_writing, repetition

__all__ = [
    "CopiedSpan",
    "Evaluation",
    "PositionLosses",
    "Writing",
    "distinct",
    "evaluate_loss",
    "evaluate_positions",
    "longest_copied_span",
    "measure_writing",
    "repetition",
    "evenly_spaced",
    "unigram_entropy",
]
