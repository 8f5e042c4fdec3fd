"""The built-in stories as a corpus."""

import hashlib
from collections.abc import Collection, Iterator
from functools import cached_property
from itertools import islice

from llamita.corpus.stories import stories
from llamita.tokenizer import END_OF_TEXT

WITNESSES = 500  # stories whose text stands for the grammar in the fingerprint


class StoryCorpus:
    """`count` stories of one seed and split, made when they are first read, and then kept (about 1 KB each)."""

    def __init__(self, seed: int, count: int, *, split: str = "train", exclude: Collection[str] = ()):
        """`exclude`: texts that must not occur, such as those of the validation stories."""
        self._seed, self._count, self._split, self._exclude = seed, count, split, exclude

    def pieces(self) -> Iterator[str]:
        """The stories in order, each followed by END_OF_TEXT."""
        for text in self.texts:
            yield text
            yield END_OF_TEXT

    def documents(self) -> Iterator[str]:
        """The stories in order."""
        return iter(self.texts)

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
        drawn = stories(self._seed, self._count, split=self._split, exclude=self._exclude)
        return (story.text for story in drawn)
