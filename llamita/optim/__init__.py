"""AdamW, learning-rate schedules, gradient clipping, loss scaling."""

from llamita.optim.adamw import AdamW
from llamita.optim.base import Optimizer, set_learning_rate
from llamita.optim.build import build_optimizer, decay_groups
from llamita.optim.clipping import clip_grad_norm_
from llamita.optim.loss_scaling import DynamicLossScaling, NoScaling, Scaling
from llamita.optim.schedule import constant_schedule, cosine_schedule, linear_schedule, make_schedule

__all__ = [
    "AdamW",
    "DynamicLossScaling",
    "NoScaling",
    "Optimizer",
    "Scaling",
    "build_optimizer",
    "clip_grad_norm_",
    "constant_schedule",
    "cosine_schedule",
    "decay_groups",
    "linear_schedule",
    "make_schedule",
    "set_learning_rate",
]
