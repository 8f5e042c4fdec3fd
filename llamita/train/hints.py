"""What a person would like to be told while a run goes on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

WINDOW = 3  # evaluations in a row that have to agree
NOTICEABLE = 1.02  # how far above its best the validation loss has to be (Prechelt, 1998: generalization loss of 2 %)


@dataclass
class OverfittingHint:
    """Notices, once, that the validation loss rises while the training loss falls.

    A single evaluation, or the loss of a single batch, says little: the means of the training loss between three
    evaluations have to fall, and the validation loss to rise from each of these to the next, and to 2 % above
    its best: where both only hover, they agree like that about once in 36 evaluations.
    """

    best: tuple[float, int] = (float("inf"), 0)  # validation loss, and the step that had it
    scored: list[tuple[float, float]] = field(default_factory=list)  # mean training loss, validation loss
    losses: list[float] = field(default_factory=list)
    given: bool = False

    def remember(self, rows: Iterable[Mapping[str, Any]]) -> "OverfittingHint":
        """Take note of all lines of a log, as if they came now: a resumed run hints where an undisturbed one would."""
        for row in rows:
            if row.get("train_loss") is not None:
                self.trained(row["train_loss"])
            if row.get("val_loss") is not None:
                self.evaluated(row["step"], row["val_loss"])
        return self

    def trained(self, loss: float) -> None:
        """Take note of the training loss of an update that is logged."""
        self.losses.append(loss)

    def evaluated(self, step: int, val_loss: float) -> str | None:
        """The hint, where this evaluation is the one that shows it."""
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
            "while the training loss fell: the model learns its text by heart. More text helps most; else fewer "
            "--epochs or --max_steps, a higher --dropout or --weight_decay, or a smaller model (--hidden_size, "
            "--num_layers). The best checkpoint is kept."
        )


def overfits(scored: list[tuple[float, float]]) -> bool:
    """Whether of these pairs (training loss, validation loss) the first falls and the second rises, all along."""
    falls_and_rises = (after[0] < before[0] and after[1] > before[1] for before, after in pairwise(scored))
    return len(scored) == WINDOW and all(falls_and_rises)
