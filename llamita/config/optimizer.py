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
    """Peak learning rate, reached after the warmup; 0: 0.75 / hidden_size, at most 0.004; with head_init copy, as for
    the built-in stories, 1.5 / hidden_size, at most 0.012 (0.0117 in the default run)."""
    min_learning_rate: float = 0.0
    """Learning rate at the end of the schedule, at max_steps."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay after the warmup: half a cosine, linear, or constant with a linear decay at the end (WSD)."""
    decay_share: float = 0.1
    """Constant schedule: fraction of max_steps for the linear decay at the end; 0: no decay."""
    warmup_steps: int = 100
    """Steps of linear warmup from 0; 0: none."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices, not of gains and biases; 0: off."""
    beta1: float = 0.9
    """Decay rate of the first moment."""
    beta2: float = 0.99
    """Decay rate of the second moment."""
    adam_eps: float = 1e-8
    """Epsilon, added to the root of the second moment."""
    grad_clip: float = 1.0
    """Maximum norm of all gradients together; 0: no clipping."""

    def __post_init__(self) -> None:
        require_positive(self, "adam_eps")
        require_not_negative(self, "learning_rate", "min_learning_rate", "warmup_steps", "weight_decay", "grad_clip")
        require_share(self, "beta1", "beta2")
        require_not_negative(self, "decay_share")
        if self.decay_share > 1:
            raise UserError(f"decay_share is {self.decay_share}, but must be at most 1: it is a fraction of max_steps")
        if 0 < self.learning_rate < self.min_learning_rate:
            raise UserError(
                f"min_learning_rate {self.min_learning_rate} is above learning_rate {self.learning_rate}: lower it"
            )


def default_learning_rate(hidden_size: int, head_init: str) -> float:
    """The peak learning rate if none is given: the best for text, and for stories with heads that copy.

    Adam changes every weight by about as much, so the change of an output grows with the width (Yang et al., 2022).
    """
    return min(0.012, 1.5 / max(hidden_size, 1)) if head_init == "copy" else min(0.004, 0.75 / max(hidden_size, 1))
