"""Hints that a run prints while it trains."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

WINDOW = 3  # consecutive evaluations that have to agree
NOTICEABLE = 1.02  # validation loss over its best (Prechelt, 1998: a generalization loss of 2 %)


@dataclass
class OverfittingHint:
    """Detects, once, that the validation loss rises while the training loss falls.

    A single evaluation, or the loss of a single batch, says little. So over three evaluations the mean training loss
    since the evaluation before has to fall, the validation loss has to rise, and to end 2 % above its best. Without
    the last condition, losses that only fluctuate would meet it about once in 36 evaluations.
    """

    best: tuple[float, int] = (float("inf"), 0)  # validation loss, and the step that had it
    scored: list[tuple[float, float]] = field(default_factory=list)  # mean training loss, validation loss
    losses: list[float] = field(default_factory=list)
    given: bool = False

    def remember(self, rows: Iterable[Mapping[str, Any]]) -> "OverfittingHint":
        """Replay all lines of a log, so that a resumed run hints where an uninterrupted one would."""
        for row in rows:
            if row.get("train_loss") is not None:
                self.trained(row["train_loss"])
            if row.get("val_loss") is not None:
                self.evaluated(row["step"], row["val_loss"])
        return self

    def trained(self, loss: float) -> None:
        """Add the training loss of a logged step."""
        self.losses.append(loss)

    def evaluated(self, step: int, val_loss: float) -> str | None:
        """The hint, if this evaluation is the first one to show overfitting."""
        if not self.losses:
            return None
        self.scored.append((sum(self.losses) / len(self.losses), val_loss))
        self.losses.clear()
        self.best = min(self.best, (val_loss, step))
        if self.given or val_loss < NOTICEABLE * self.best[0] or not overfits(self.scored[-WINDOW:]):
            return None
        self.given = True
        best, since = self.best
        return (
            f"hint: since step {since:,} the validation loss has risen from {best:.4f} to {val_loss:.4f} "
            "while the training loss fell: the model memorizes its text. More text helps most; else fewer "
            "--epochs or --max_steps, a higher --dropout or --weight_decay, or a smaller model (--hidden_size, "
            "--num_layers). The best checkpoint is kept."
        )


def overfits(scored: list[tuple[float, float]]) -> bool:
    """Whether in these pairs the training loss (first) falls and the validation loss (second) rises at every step."""
    falls_and_rises = (after[0] < before[0] and after[1] > before[1] for before, after in pairwise(scored))
    return len(scored) == WINDOW and all(falls_and_rises)
