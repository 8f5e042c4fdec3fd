"""The [training] table: batch size, length and seed."""

import math
from dataclasses import dataclass
from typing import Literal

from llamita.config.checks import require_not_negative, require_positive
from llamita.config.derived import Derives, set_derived
from llamita.config.size import DEFAULT_BATCH
from llamita.errors import UserError

MOST_STEPS = 10**9  # more is a typo


@dataclass(frozen=True)
class TrainingConfig(Derives):
    """Batch size, length and seed. One update trains on batch_size x grad_accum_steps sequences."""

    seed: int = 0
    """Seed of initial weights, data order, dropout, samples, and the built-in stories."""
    batch_size: int = 0
    """Sequences per batch, over all processes together; 0: 16, or from size or depth."""
    grad_accum_steps: int = 1
    """Gradient accumulation: batches per update."""
    max_steps: int = 0
    """Updates in the whole run; 0: from epochs, or 2,000 where that is 0 too."""
    epochs: float = 0.0
    """Passes over the data, instead of max_steps; 0: max_steps decides."""
    minutes: float | Literal["off"] = "off"
    """As many updates as end within this time on this machine, instead of max_steps. It counts from the first update
    on, with evaluation, samples and checkpoints; off: max_steps or epochs decide."""

    def __post_init__(self) -> None:
        set_derived(self, {} if self.batch_size else {"batch_size": DEFAULT_BATCH})
        require_positive(self, "batch_size", "grad_accum_steps")
        require_not_negative(self, "seed", "max_steps", "epochs")
        if max(self.max_steps, self.epochs) > MOST_STEPS:
            raise UserError(f"a run has at most {MOST_STEPS:,} steps: lower --max_steps or --epochs")
        if self.max_steps and self.epochs:
            raise UserError(f"max_steps {self.max_steps} and epochs {self.epochs} both set the length: give one")
        self._check_minutes()

    def _check_minutes(self) -> None:
        if self.minutes == "off":
            return
        require_positive(self, "minutes")
        for name in ("max_steps", "epochs"):
            if value := getattr(self, name):
                raise UserError(f"minutes {self.minutes:g} and {name} {value} both set the length: give one")

    @property
    def budget(self) -> float:
        """Seconds that a run with `minutes` may take; infinite for other runs."""
        return math.inf if self.minutes == "off" else 60 * self.minutes

    @property
    def sequences_per_update(self) -> int:
        """Sequences per optimizer step."""
        return self.batch_size * self.grad_accum_steps
