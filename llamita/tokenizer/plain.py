"""Encoding in plain Python, to read, and as the reference for the kernels: pieces, bytes, merges, ids."""

from collections.abc import Callable, Mapping
from itertools import chain

import numpy as np

from llamita.errors import UserError
from llamita.tokenizer.merge import NEVER, merge
from llamita.tokenizer.patterns import Scanner


class PlainEncoder:
    """Encodes text without special tokens, and decodes.

    tokens: id -> bytes, of special tokens too. ids: bytes -> id. merge_ranks: pair -> place in the list of merges;
    without it ids are ranks, and two neighbours merge if what they join to is a token. whole: a piece that is a token
    is never cut, where merges would not make it.
    """

    def __init__(
        self,
        pattern: str,
        tokens: Mapping[int, bytes],
        ids: Mapping[bytes, int],
        merge_ranks: Mapping[tuple[bytes, bytes], int] | None,
        whole: bool,
    ):
        self._scanner, self._tokens, self._ids = Scanner(pattern), tokens, ids
        self._merge_ranks, self._whole = merge_ranks, whole
        self._rank = self._rank_of_join if merge_ranks is None else self._rank_of_pair
        self._cache = PieceCache(self._encode_piece)

    def encode(self, text: str) -> np.ndarray:
        """The ids of a complete text, uint32."""
        return self._ids_of(self._scanner.split(text))

    def encode_settled(self, text: str) -> tuple[np.ndarray, str]:
        """Of the beginning of a text: the ids that no continuation can change, uint32; the text that has none yet."""
        pieces, rest = self._scanner.split_stable(text)
        return self._ids_of(pieces), rest

    def decode(self, ids: np.ndarray) -> bytes:
        """The bytes of ids. Raises `KeyError`, with the id, for one out of range."""
        return b"".join(map(self._tokens.__getitem__, ids.tolist()))

    def _ids_of(self, pieces: list[str]) -> np.ndarray:
        return np.fromiter(chain.from_iterable(map(self._cache.__getitem__, pieces)), np.uint32)

    def _encode_piece(self, piece: str) -> tuple[int, ...]:
        data = piece.encode("utf-8")
        if self._whole and data in self._ids:
            return (self._ids[data],)
        try:
            return tuple([self._ids[token] for token in merge(data, self._rank)])
        except KeyError as missing:
            raise missing_byte(missing.args[0]) from None

    def _rank_of_pair(self, left: bytes, right: bytes) -> float:
        assert self._merge_ranks is not None
        return self._merge_ranks.get((left, right), NEVER)

    def _rank_of_join(self, left: bytes, right: bytes) -> float:
        return self._ids.get(left + right, NEVER)


class PieceCache(dict[str, tuple[int, ...]]):
    """Piece -> ids, so that a word is merged once. Cleared when full: cheaper than choosing what to evict."""

    def __init__(self, encode_piece: Callable[[str], tuple[int, ...]], limit: int = 1 << 17, longest_piece: int = 64):
        self._encode_piece, self._limit, self._longest_piece = encode_piece, limit, longest_piece

    def __missing__(self, piece: str) -> tuple[int, ...]:
        ids = self._encode_piece(piece)
        if len(piece) <= self._longest_piece:
            if len(self) >= self._limit:
                self.clear()
            self[piece] = ids
        return ids


def missing_byte(byte: bytes) -> UserError:
    """The error for a text with a byte that is no token."""
    return UserError(f"the vocabulary lacks the byte {byte!r}; a byte-level vocabulary needs all 256")
