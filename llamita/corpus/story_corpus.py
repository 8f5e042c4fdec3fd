"""The built-in stories as a corpus, and as the source that `--data stories` names."""

import hashlib
from collections.abc import Collection, Iterator
from functools import cached_property
from itertools import islice

from llamita.config import DataConfig
from llamita.corpus.documents import Pieces
from llamita.corpus.source import Defaults, Judge, Source
from llamita.corpus.stories import accepts, stories, validation_stories
from llamita.errors import UserError

TRAINING_STORIES = 30_000
VALIDATION_STORIES = 500
WITNESSES = 500  # stories whose text represents the grammar in the fingerprint


def open_stories(options: DataConfig, seed: int) -> Source:
    """The stories of `seed`, without the validation stories; the grammar judges samples and knows the loss floor.

    There are 30,000, or `max_documents`, as many as are asked for. Raises `UserError` for `val_data`.
    """
    if options.val_data:
        raise UserError("--val_data: the built-in stories have validation stories of their own; give --data as well")
    held_out = validation_stories(seed, VALIDATION_STORIES)
    count = options.max_documents or TRAINING_STORIES
    return Source(
        training=StoryCorpus(seed, count, exclude={story.text for story in held_out}),
        validation=StoryCorpus(seed, VALIDATION_STORIES, split="validation"),
        judge=Judge("grammar", accepts),
        floor_nats=sum(story.nats for story in held_out),
        defaults=Defaults(windows="document", head_init="copy"),
    )


class StoryCorpus:
    """`count` stories of one seed and split, made when first read, and then held in memory (about 1 KB each)."""

    def __init__(self, seed: int, count: int, *, split: str = "train", exclude: Collection[str] = ()):
        """`exclude`: texts that must not occur, such as those of the validation stories."""
        self._seed, self._count, self._split, self._exclude = seed, count, split, exclude

    def pieces(self) -> Pieces:
        """The stories in order, each followed by None."""
        for text in self.texts:
            yield text
            yield None

    def documents(self) -> Iterator[str]:
        """The stories in order."""
        return iter(self.texts)

    @property
    def most_characters(self) -> int:
        """How many characters there are."""
        return sum(map(len, self.texts))

    @cached_property
    def texts(self) -> list[str]:
        """The stories in order, all of them."""
        return list(self._texts())

    def fingerprint(self) -> str:
        """sha256 in hex over seed, split, number, and as many texts as tell one version of the grammar from another."""
        digest = hashlib.sha256(repr((self._seed, self._split, self._count)).encode())
        for text in islice(self._texts(), WITNESSES):
            digest.update(text.encode() + b"\0")
        return digest.hexdigest()

    def describe(self) -> str:
        """The corpus in a few words."""
        return f"{self._count:,} built-in stories"

    def _texts(self) -> Iterator[str]:
        sampled = stories(self._seed, self._count, split=self._split, exclude=self._exclude)
        return (story.text for story in sampled)
