"""Numbers that say how good a model is."""

from llamita.evaluate.loss import Evaluation, evaluate_loss, spread, unigram_entropy

__all__ = ["Evaluation", "evaluate_loss", "spread", "unigram_entropy"]
