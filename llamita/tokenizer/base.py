"""The interface of all tokenizers, and what they share."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llamita.errors import UserError
from llamita.files import write_atomically

END_OF_TEXT = "<|endoftext|>"
"""The special token that ends a document."""


class Tokenizer(Protocol):
    """Text to ids and back. Ids are 0 to vocab_size - 1; `decode(encode(t)) == t` for text the vocabulary covers."""

    vocab_size: int
    special_tokens: dict[str, int]

    def encode(self, text: str, *, allow_special: bool = True) -> list[int]:
        """The ids of `text`. Special tokens in it become their one id, or ordinary text if not `allow_special`."""
        ...

    def encode_blocks(self, strings: Iterable[str]) -> Iterator[np.ndarray]:
        """`encode_iterable` in arrays of `dtype`, of any size: faster for large texts."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of any ids in range, special tokens spelled out. Bytes that aren't UTF-8 become U+FFFD."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of text of an id; b"" for a special token."""
        ...

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """int32 (vocab_size,): how many bytes of text each id has, 0 for special tokens. For bits per byte."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The content of the `tokenizer.json` that Hugging Face's `tokenizers` reads."""
        ...

    @property
    def end_id(self) -> int | None:
        """The id of `<|endoftext|>`, if there is one."""
        return self.special_tokens.get(END_OF_TEXT)

    @property
    def start_id(self) -> int:
        """The id before the first token of a document: of `<|endoftext|>`, or of a newline where there is none."""
        return self.encode("\n")[0] if self.end_id is None else self.end_id

    @cached_property
    def assigned(self) -> np.ndarray:
        """bool (vocab_size,): whether a token has the id. Vocabularies from elsewhere may have unused ids."""
        return np.ones(self.vocab_size, dtype=bool)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of arrays of ids; see `token_dtype`."""
        return token_dtype(self.vocab_size)

    def encode_array(self, text: str, *, threads: int = 1) -> np.ndarray:
        """The ids of `text` as an array of `dtype`. threads: how many encode a large text concurrently."""
        return np.array(self.encode(text), dtype=self.dtype)

    def encode_batch(self, texts: Sequence[str], *, threads: int = 1) -> list[np.ndarray]:
        """`encode_array` of each text. threads: how many texts are encoded concurrently."""
        return [self.encode_array(text) for text in texts]

    def encode_iterable(self, strings: Iterable[str]) -> Iterator[int]:
        """The ids of a text that comes in strings cut anywhere, without holding all of it in memory."""
        # Chained: a generator that yields each id would cost as much as everything else.
        return chain.from_iterable(block.tolist() for block in self.encode_blocks(strings))

    def encode_document(self, strings: Iterable[str]) -> Iterator[np.ndarray]:
        """`encode_blocks` of one document, in which `<|endoftext|>` is ordinary text: its end is known already."""
        return self.encode_blocks(strings)

    @property
    def is_separable(self) -> bool:
        """Whether `separable` can cut every document."""
        return False

    def separable(self, strings: Iterable[str]) -> Iterator[str]:
        """One document, cut anywhere -> the same in strings that can be encoded separately, one after another."""
        return iter(("".join(strings),))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of the file that `save` writes: equal exactly for tokenizers that give the same ids."""
        return hashlib.sha256(self._file_content()).hexdigest()

    def save(self, path: str | Path) -> Path:
        """Write `tokenizer.json` and return its path. A `path` not ending in .json is a folder, made if missing.

        Raises `UserError` where it cannot be written.
        """
        path = Path(path)
        file = path if path.suffix == ".json" and not path.is_dir() else path / "tokenizer.json"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, self._file_content())
        except OSError as error:
            raise UserError(
                f"{file}: can't be written ({error.strerror}); choose another folder, or a cache with LLAMITA_CACHE"
            ) from error
        return file

    def _file_content(self) -> bytes:
        return (json.dumps(self.to_json(), ensure_ascii=False, indent=1) + "\n").encode("utf-8")


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest of uint16 and uint32 (little-endian) that holds every id of a vocabulary."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def plain_ids(ids: Iterable[int]) -> Iterable[int]:
    """Ids as Python numbers: arrays and tensors have scalars of their own, which are slow or don't compare."""
    tolist = getattr(ids, "tolist", None)
    return ids if tolist is None else tolist()


def unknown_id(token_id: object, vocab_size: int) -> UserError:
    """The error for an id out of range."""
    return UserError(f"token id {token_id} is not in the vocabulary; give ids from 0 to {vocab_size - 1}")
