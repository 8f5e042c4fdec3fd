"""Scaling laws: a ladder of runs, the law and the isoFLOP parabolas fitted to it, and predictions that are checked."""

from llamita.experiments.scaling.ladder import Text, make_plan
from llamita.experiments.scaling.law import Points, ScalingLaw, fit_law
from llamita.experiments.scaling.study import Study, base_of, measure_text, train_held_out

__all__ = ["Points", "ScalingLaw", "Study", "Text", "base_of", "fit_law", "make_plan", "measure_text", "train_held_out"]
