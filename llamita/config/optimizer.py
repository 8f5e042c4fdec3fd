"""The [optimizer] table: AdamW, its schedule, and clipping."""

from dataclasses import dataclass
from typing import Literal

from llamita.config.checks import require_not_negative, require_positive, require_share
from llamita.config.derived import Derives
from llamita.errors import UserError


@dataclass(frozen=True)
class OptimizerConfig(Derives):
    """AdamW (Loshchilov & Hutter, 2019), its schedule, and clipping."""

    learning_rate: float = 0.0
    """Peak learning rate, reached after the warmup; 0: 0.75 / hidden_size, at most 0.004; for heads that copy
    1.5 / hidden_size, at most 0.012."""
    min_learning_rate: float = 0.0
    """Where the schedule ends, at max_steps."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warmup: along half a cosine, a line, or not at all but for the end (WSD)."""
    decay_share: float = 0.1
    """Of the constant schedule: the share of max_steps in which it falls in a line at the end; 0: it never falls."""
    warmup_steps: int = 100
    """Steps of linear increase at the start."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices; gains are not decayed."""
    beta1: float = 0.9
    """Decay of the mean of gradients, per step."""
    beta2: float = 0.99
    """Decay of the mean of squared gradients, per step."""
    adam_eps: float = 1e-8
    """Added to the root of the mean square."""
    grad_clip: float = 1.0
    """Largest norm of all gradients together; 0: no clipping."""

    def __post_init__(self) -> None:
        require_positive(self, "adam_eps")
        require_not_negative(self, "learning_rate", "min_learning_rate", "warmup_steps", "weight_decay", "grad_clip")
        require_share(self, "beta1", "beta2")
        require_not_negative(self, "decay_share")
        if self.decay_share > 1:
            raise UserError(f"decay_share is {self.decay_share}, but must be at most 1: it is a share of max_steps")
        if 0 < self.learning_rate < self.min_learning_rate:
            raise UserError(
                f"min_learning_rate {self.min_learning_rate} is above learning_rate {self.learning_rate}: lower it"
            )


def default_learning_rate(hidden_size: int, head_init: str) -> float:
    """The peak learning rate where none is given: what was best for text, and for stories with heads that copy.

    Adam moves every weight by about as much, so what a matrix adds up grows with its width (Yang et al., 2022).
    """
    return min(0.012, 1.5 / max(hidden_size, 1)) if head_init == "copy" else min(0.004, 0.75 / max(hidden_size, 1))
