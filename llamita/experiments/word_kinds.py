"""What a model of the built-in stories gets wrong: its loss by kind of word, and by position in the story.

The grammar knows the kind of every word: whether a name is new or recalled, whether a pronoun refers back, and where a
story ends. So a difference between two models can be traced to what one of them cannot do. The grammar also knows the
exact probability of every token, so each group has a loss floor of its own.
"""

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from llamita.config import RunConfig
from llamita.corpus.grammar_branches import ExactLoss
from llamita.corpus.stories import GRAMMAR, Story, validation_stories
from llamita.data import IGNORED, Dataset, reopen_dataset
from llamita.evaluate.loss import scored_batches
from llamita.experiments.other_code import is_checkout, model_class
from llamita.experiments.result import Result
from llamita.files import write_json
from llamita.model import Llama
from llamita.tokenizer import Tokenizer
from llamita.train import load_run

KINDS = ("names recalled", "other words recalled", "pronouns", "new names", "other new words", "endings", "phrases")
NAMES = frozenset({"name", "person", "animal"})
ENDINGS = frozenset({"ending", "moral"})
PHRASES = frozenset({"story", "shape", "opening", "sentence", "feeling", "meeting", "dialog", "filler"})
POSITIONS = 0, 16, 32, 64, 128, 256
"""Bounds of the groups of positions, in tokens from the start of the story; later ones join the last group."""
KINDS_FILE = "word_kinds_2.json"  # the first version had no loss floor
TOKENS_PER_BATCH = 4096

Pair = tuple[float, float]
"""The loss of a target and its floor, in nats."""


class WordGroup(NamedTuple):
    """A group of targets: the mean loss and the loss floor in nats per token, and how many targets there are."""

    loss: float
    floor: float
    targets: int

    @property
    def distance(self) -> float:
        """How far the loss is above the floor."""
        return self.loss - self.floor


@dataclass(frozen=True)
class GroupedLoss:
    """The losses of a model by kind of word and by position."""

    kinds: dict[str, WordGroup]
    positions: dict[str, WordGroup]


class ExactLosses:
    """The loss floor of each token of stories, computed once for all runs that share the stories and the tokenizer."""

    def __init__(self) -> None:
        self._of_tokenizer: dict[str, ExactLoss] = {}
        self._known: dict[tuple[str, str], list[float]] = {}

    def nats(self, story: Story, ids: Sequence[int], tokenizer: Tokenizer) -> list[float]:
        """-ln of the exact probability of each token of a story, its end token included."""
        key = tokenizer.fingerprint, story.text
        if key not in self._known:
            exact = self._of_tokenizer.setdefault(key[0], ExactLoss(GRAMMAR, tokenizer))
            self._known[key] = exact.nats(story.text, ids).tolist()
        return self._known[key]


def kind_of(choice: str) -> str:
    """The group of a choice's kind in the grammar (`corpus/stories.py` lists them)."""
    if choice == "pronoun":
        return "pronouns"
    if choice.endswith(" recalled"):
        return "names recalled" if choice.removesuffix(" recalled") in NAMES else "other words recalled"
    if choice in ENDINGS:
        return "endings"
    if choice in PHRASES:
        return "phrases"
    return "new names" if choice in NAMES else "other new words"


def kinds_of_tokens(story: Story, tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The kind of each token of a story's text and of its end token, which counts as an ending.

    A token belongs to the shortest choice that covers its first character that is not white space.
    """
    kinds = _kinds_of_characters(story)
    lengths = [int(tokenizer.byte_lengths[token]) for token in ids]
    starts = np.cumsum([0, *lengths])
    # Positions of bytes -> of characters: the stories may have characters of several bytes.
    byte_starts = np.cumsum([0, *(len(character.encode()) for character in story.text)]).tolist()
    found = []
    for start, end in pairwise(starts.tolist()):
        first, last = bisect_right(byte_starts, start) - 1, max(bisect_right(byte_starts, end - 1), 1)
        visible = [place for place in range(first, min(last, len(kinds))) if not story.text[place].isspace()]
        place = visible[0] if visible else first
        found.append(kinds[place] if end > start and place < len(kinds) else "endings")
    return found


def _kinds_of_characters(story: Story) -> list[str]:
    kinds = ["phrases"] * len(story.text)
    for choice in sorted(story.choices, key=lambda choice: choice.start - choice.end):  # the longest first
        kinds[choice.start : choice.end] = [kind_of(choice.kind)] * (choice.end - choice.start)
    return kinds


@torch.no_grad()
def grouped_loss(model: Llama, data: Dataset, stories: Sequence[Story], exact: ExactLosses) -> GroupedLoss:
    """The loss of a model on the validation stories, each a window of its own, by kind of word and by position."""
    kinds: dict[str, list[Pair]] = {kind: [] for kind in KINDS}
    bounds = [f"{low}-{high - 1}" for low, high in pairwise(POSITIONS)]
    positions: dict[str, list[Pair]] = {name: [] for name in bounds}
    for story, ids, losses in _scored_stories(model, data, stories):
        pairs = zip(losses, exact.nats(story, ids, data.tokenizer), strict=True)
        for place, (kind, pair) in enumerate(zip(kinds_of_tokens(story, data.tokenizer, ids), pairs, strict=True)):
            kinds[kind].append(pair)
            positions[bounds[min(bisect_right(POSITIONS, place) - 1, len(bounds) - 1)]].append(pair)
    return GroupedLoss(_means(kinds), _means(positions))


def _scored_stories(
    model: Llama, data: Dataset, stories: Sequence[Story]
) -> Iterator[tuple[Story, list[int], list[float]]]:
    """(story, its tokens with the end token, the loss of each): window number i is story number i."""
    remaining = iter(stories)
    indices = np.arange(len(stories))
    for batch, losses in scored_batches(model, data.validation, indices, nullcontext, "none", TOKENS_PER_BATCH):
        for targets, row in zip(batch.targets, losses.cpu(), strict=True):
            counted = targets != IGNORED
            yield next(remaining), targets[counted].tolist(), row[counted].tolist()


def _means(groups: dict[str, list[Pair]]) -> dict[str, WordGroup]:
    means = {name: np.mean(pairs, axis=0).tolist() for name, pairs in groups.items() if pairs}
    return {name: WordGroup(loss, floor, len(groups[name])) for name, (loss, floor) in means.items()}


def knows_kinds(config: RunConfig, data: Dataset) -> bool:
    """Whether the data are the built-in stories, each in a window of its own: where the loss floor is known."""
    return tuple(config.data.data) == ("stories",) and data.floor is not None


def grouped_loss_of(result: Result, exact: ExactLosses) -> GroupedLoss | None:
    """The grouped loss of a finished run's newest checkpoint, computed once, and then read from its directory.

    None where the data have no grammar, and for the model of another checkout.
    """
    code = result.run.code
    if result.status != "finished" or result.loss_floor is None or (code and is_checkout(code)):
        return None
    file = result.path / KINDS_FILE
    if not file.exists():
        model, _, config = load_run(result.path / "latest", model_class(code) if code else Llama)
        data = reopen_dataset(config, result.facts)
        if not knows_kinds(config, data):
            return None
        scored = grouped_loss(model, data, validation_stories(config.training.seed, len(data.validation)), exact)
        write_json(file, vars(scored))
    return _read(file)


def _read(file: Path) -> GroupedLoss:
    tables = json.loads(file.read_text(encoding="utf-8"))
    groups = {name: {key: WordGroup(*row) for key, row in rows.items()} for name, rows in tables.items()}
    return GroupedLoss(groups["kinds"], groups["positions"])
