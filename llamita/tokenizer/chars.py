"""One id per character: the smallest tokenizer there is, for small models and first steps."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from llamita.errors import UserError
from llamita.tokenizer.base import END_OF_TEXT, Tokenizer, plain_ids, unknown_id
from llamita.tokenizer.documents import read_documents
from llamita.tokenizer.hf_json import characters_json
from llamita.tokenizer.special import SpecialTokens
from llamita.tokenizer.streaming import repair, repair_stream, split_stream

UNKNOWN = "<unk>"


class CharTokenizer(Tokenizer):
    """Ids: the characters in the order of their code points, then `<unk>`, then `<|endoftext|>`.

    characters: a string or a list of single characters, in any order and with repetitions, so a complete text will do.

    `<unk>` is the id of every character that isn't in the vocabulary, and decodes to the text "<unk>". It is not a
    special token: the text "<unk>" is five characters. `byte_lengths` counts it as 1 byte, the least it can have been,
    so that bits per byte are never too optimistic.

    >>> CharTokenizer("hello").encode("hole?<|endoftext|>")
    [1, 3, 2, 0, 4, 5]
    """

    def __init__(self, characters: str | Iterable[str]):
        whole = repair(characters) if isinstance(characters, str) else characters
        self.characters = sorted({repair(character) for character in whole})
        for character in self.characters:
            if len(character) != 1:
                raise UserError(f"characters contains {character!r}; give single characters or one string")
        self._unknown = len(self.characters)
        self._ids = {character: token_id for token_id, character in enumerate(self.characters)}
        self._texts = [*self.characters, UNKNOWN, END_OF_TEXT]
        self.vocab_size = len(self._texts)
        self.special_tokens = {END_OF_TEXT: self._unknown + 1}
        self._special = SpecialTokens(self.special_tokens)

    @classmethod
    def train(
        cls, paths_or_documents: str | Path | Iterable[str | Path | Iterator[str]], *, allow_special: bool = True
    ) -> "CharTokenizer":
        """The vocabulary is every character of a corpus, which is given as for `train_bpe`.

        `<|endoftext|>` in it does not count, unless it is ordinary text: not `allow_special`.
        """
        special = SpecialTokens([END_OF_TEXT] if allow_special else [])
        seen: set[str] = set()
        for strings in read_documents(paths_or_documents):
            for text, _ in split_stream(strings, special):
                seen.update(text)
        return cls(seen)

    def encode(self, text: str, *, allow_special: bool = True) -> list[int]:
        """The ids of `text`; characters outside the vocabulary are `<unk>`. Special tokens are text if not allowed."""
        text = repair(text)
        cuts = self._special.split(text) if allow_special else [(text, None)]
        return list(chain.from_iterable(self._cut_ids(ordinary, token) for ordinary, token in cuts))

    def encode_blocks(self, strings: Iterable[str]) -> Iterator[np.ndarray]:
        """The ids of the text that `strings` make together; only what may begin a special token waits for more."""
        return self._encode_blocks(strings, self._special)

    def encode_document(self, strings: Iterable[str]) -> Iterator[np.ndarray]:
        """`encode_blocks` of one document, in which `<|endoftext|>` is ordinary text."""
        return self._encode_blocks(strings, SpecialTokens())

    @property
    def is_separable(self) -> bool:
        """Always."""
        return True

    def separable(self, strings: Iterable[str]) -> Iterator[str]:
        """One document, cut anywhere but within a surrogate pair."""
        return repair_stream(strings)

    def _encode_blocks(self, strings: Iterable[str], special: SpecialTokens) -> Iterator[np.ndarray]:
        for text, token in split_stream(strings, special):
            yield np.fromiter(self._cut_ids(text, token), self.dtype)

    def _cut_ids(self, text: str, token: str | None) -> Iterator[int]:
        ids = (self._ids.get(character, self._unknown) for character in text)
        return ids if token is None else chain(ids, (self.special_tokens[token],))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`. Raises UserError for an id out of range."""
        return "".join([self._text(token_id) for token_id in plain_ids(ids)])

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that an id decodes to; b"" for `<|endoftext|>`. Raises UserError for an id out of range."""
        text = self._text(token_id)
        return b"" if token_id in self.special_tokens.values() else text.encode("utf-8")

    def _text(self, token_id: int) -> str:
        if not 0 <= token_id < self.vocab_size:  # a list would take -1 for its last
            raise unknown_id(token_id, self.vocab_size)
        return self._texts[token_id]

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """int32 (vocab_size,): the UTF-8 bytes of each character, 1 for `<unk>`, 0 for `<|endoftext|>`."""
        return np.array([*(len(character.encode("utf-8")) for character in self.characters), 1, 0], dtype=np.int32)

    def to_json(self) -> dict[str, Any]:
        """The content of `tokenizer.json`."""
        vocab = {text: token_id for token_id, text in enumerate(self._texts)}
        return characters_json(vocab, UNKNOWN, self.special_tokens)
