"""What a corpus has besides its text: a validation split, a judge of samples, a loss floor, defaults."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from llamita.corpus.documents import Corpus

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how much of it is done, how much there is)."""


@dataclass(frozen=True)
class Judge:
    """Decides whether a text could belong to the corpus, for a corpus that can tell. Samples are judged by it.

    Attributes:
        name: what judges, in one word or two: "grammar" is shown as "accepted by the grammar".
        accepts: one text, prompt included -> the verdict.
    """

    name: str
    accepts: Callable[[str], bool]

    def acceptance(self, texts: Iterable[str]) -> float:
        """The share of the texts that are accepted, from 0 to 1; 0 if there are none."""
        verdicts = [self.accepts(text) for text in texts]
        return sum(verdicts) / len(verdicts) if verdicts else 0.0


@dataclass(frozen=True)
class Defaults:
    """What `auto` means for a corpus: fields of the configuration, by their names there."""

    windows: Literal["stream", "document"] = "stream"
    head_init: Literal["random", "copy"] = "random"


@dataclass(frozen=True)
class Source:
    """What `--data` names, opened: the text to train on, and what is known about it.

    Attributes:
        training: the text to train on.
        validation: the text to validate on; None: split off `training`.
        holdout_every: where `validation` is None, every n-th document of `training` is held out for validation, so that
            a cap on the text needs no more of it than it takes in; None: the last share of the documents.
        judge: judges samples; None where there is none.
        floor_nats: the summed loss of a perfect model on all of `validation`, end tokens included, in nats: no model
            can do better. None where it is unknown.
        defaults: what `auto` means here.
        notes: lines for the user about how the text was read, to be asked for after it was read.

    Raises `ValueError` where a floor is given without its validation text.
    """

    training: Corpus
    validation: Corpus | None = None
    holdout_every: int | None = None
    judge: Judge | None = None
    floor_nats: float | None = None
    defaults: Defaults = Defaults()
    notes: Callable[[], Sequence[str]] = tuple

    def __post_init__(self) -> None:
        if self.floor_nats is not None and self.validation is None:
            raise ValueError("floor_nats is a total over the validation text, but there is no validation text")
