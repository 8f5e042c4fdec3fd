"""Numbers and pictures that say how good a model is: `loss` and `positions` of texts it reads, `writing` of its own."""

from llamita.evaluate.copying import CopiedSpan, longest_copied_span
from llamita.evaluate.loss import Evaluation, evaluate_loss, spread, unigram_entropy
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
    "spread",
    "unigram_entropy",
]
