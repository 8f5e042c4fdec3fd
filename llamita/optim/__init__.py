"""What turns gradients into updates: AdamW, the learning-rate schedule, clipping."""

from llamita.optim.adamw import AdamW, decay_groups
from llamita.optim.clipping import clip_grad_norm_
from llamita.optim.schedule import cosine_schedule

__all__ = ["AdamW", "clip_grad_norm_", "cosine_schedule", "decay_groups"]
