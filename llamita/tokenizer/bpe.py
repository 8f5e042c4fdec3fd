"""Byte-level byte-pair encoding: text → pieces → bytes → merged tokens → ids (Radford et al., 2019).

Every text has ids, since every byte is a token, and every id sequence has a text.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from itertools import chain, count
from typing import Any

import numpy as np

from llamita.errors import UserError
from llamita.jit import available
from llamita.tokenizer.base import END_OF_TEXT, Tokenizer, plain_ids, unknown_id
from llamita.tokenizer.hf_json import bpe_json, merges_of_ranks
from llamita.tokenizer.kernels.encoding import ENCODING
from llamita.tokenizer.native import NativeEncoder
from llamita.tokenizer.patterns import last_break, require_pattern
from llamita.tokenizer.plain import PlainEncoder
from llamita.tokenizer.special import SpecialTokens
from llamita.tokenizer.streaming import encode_stream, independent_blocks, repair, slices_at_breaks
from llamita.tokenizer.vocabulary import number_vocabulary

SLICES_A_THREAD = 2  # few: between slices threads wait for the GIL, and at the end for one another
LEAST_SLICE = 1 << 16  # characters below which another thread is not faster
MANY = 1000  # ids from which the kernels pay

MOST_IDS = 1 << 24  # tables have an entry for every id, unused ones included

BYTES_OF_TEXT = [byte for byte in range(0xF5) if byte not in (0xC0, 0xC1)]
"""The bytes that occur in UTF-8."""


class BPETokenizer(Tokenizer):
    """Encodes with a vocabulary and the merges that made it, by compiled kernels.

    vocab: id -> bytes. merges: pairs in the order they were learned. special_tokens: those whose UTF-8 bytes are in
    the vocabulary keep that id, others get the next ids in order; a dict names the ids. pattern: "gpt2", "cl100k" or
    "llama3". `merges=None` means that ids are ranks (see `from_ranks`). ignore_merges: a piece that is a token is never
    cut, also where the merges would not lead to it; so for ranks. plain: the same ids by plain Python, slowly, which is
    also what runs where numba cannot be imported; a line on stderr says so.

    Raises UserError for an unknown pattern, a merge whose result isn't in the vocabulary, or an id used twice.

    >>> tokenizer = BPETokenizer({**{i: bytes([i]) for i in range(256)}, 256: b"hi"}, [(b"h", b"i")], ["<|endoftext|>"])
    >>> tokenizer.encode("hi!<|endoftext|>")
    [256, 33, 257]
    """

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]] | None,
        special_tokens: Sequence[str] | Mapping[str, int] | None = None,
        pattern: str = "gpt2",
        *,
        ignore_merges: bool = False,
        plain: bool = False,
    ):
        vocab = dict(sorted(vocab.items()))
        # If two ids have the same bytes, the lower one is used, hence the reversed order.
        self._ids = {token: token_id for token_id, token in reversed(vocab.items())}
        self._merges = None if merges is None else [(left, right) for left, right in merges]
        self._ignore_merges = ignore_merges or merges is None
        self._merge_ranks = _merge_ranks(self._merges or [], self._ids)
        require_pattern(pattern)
        self.pattern, self.plain = pattern, plain
        self._special, self._nothing_special = SpecialTokens(special_tokens or []), SpecialTokens()
        self.special_tokens = _special_ids(special_tokens or [], vocab, self._ids)
        self._special_in_document = SpecialTokens(token for token in self.special_tokens if token != END_OF_TEXT)
        self._tokens = vocab | {id_: token.encode("utf-8") for token, id_ in self.special_tokens.items()}
        self.vocab_size = _checked_size(self._tokens)
        self._unused_ids = [token_id for token_id in range(self.vocab_size) if token_id not in self._tokens]
        self._tokens |= dict.fromkeys(self._unused_ids, b"")  # as for `tokenizers`, they decode to nothing
        self._keep_special_from_text()

    @classmethod
    def from_ranks(
        cls,
        ranks: Mapping[bytes, int],
        special_tokens: Sequence[str] | Mapping[str, int] | None = None,
        pattern: str = "gpt2",
        *,
        plain: bool = False,
    ) -> "BPETokenizer":
        """A vocabulary published without merges, as tiktoken's: token bytes -> rank, which is its id as well.

        Two neighbours merge if their joined bytes are a token; the lowest rank goes first. A piece that is
        a token is never cut.
        """
        return cls({rank: token for token, rank in ranks.items()}, None, special_tokens, pattern, plain=plain)

    def _keep_special_from_text(self) -> None:
        """Remove special tokens from the ordinary ones, so that text never becomes them (unless merges make them)."""
        made = {left + right for left, right in self._merge_ranks}
        for token in map(str.encode, self.special_tokens):
            if len(token) > 1 and token not in made:
                self._ids.pop(token, None)

    # --- encoding ---

    @cached_property
    def _encoder(self) -> "NativeEncoder | PlainEncoder":
        """Made for the first text, since building the kernels' tables takes a moment."""
        ranks = None if self._merges is None else self._merge_ranks
        if self.plain or not available(*ENCODING):
            return PlainEncoder(self.pattern, self._tokens, self._ids, ranks, self._ignore_merges)
        return NativeEncoder(number_vocabulary(self.pattern, self._tokens, self._ids, ranks, self._ignore_merges))

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: without the encoder, which is derived from the rest and holds addresses of this process."""
        return {name: value for name, value in self.__dict__.items() if name != "_encoder"}

    def encode(self, text: str, *, allow_special: bool = True) -> list[int]:
        """The ids of `text`; lone surrogates in it count as U+FFFD. Special tokens are ordinary text if not allowed."""
        return self._encode(text, self._special if allow_special else self._nothing_special).tolist()

    def encode_array(self, text: str, *, threads: int = 1) -> np.ndarray:
        """The ids of `text` as uint16, or uint32 where the vocabulary has more than 65,536 entries.

        threads: how many encode a large text concurrently.
        """
        if threads == 1 or not self.is_separable:
            return self._encode(text, self._special).astype(self.dtype)
        slices = slices_at_breaks(text, max(len(text) // (SLICES_A_THREAD * threads), LEAST_SLICE))
        return np.concatenate(self.encode_batch(list(slices), threads=threads))

    def encode_batch(self, texts: Sequence[str], *, threads: int = 1) -> list[np.ndarray]:
        """`encode_array` of each text. threads: how many texts are encoded concurrently."""
        if threads == 1:
            return [self.encode_array(text) for text in texts]
        _ = self._encoder  # made once, before several threads would
        size = max(1, len(texts) // (SLICES_A_THREAD * threads))  # texts per task
        shares = [texts[first : first + size] for first in range(0, len(texts), size)]
        with ThreadPoolExecutor(threads) as pool:
            return list(chain.from_iterable(pool.map(self.encode_batch, shares)))

    def encode_blocks(self, strings: Iterable[str]) -> Iterator[np.ndarray]:
        """The ids of the text that `strings` make together, wherever it was cut."""
        return self._encode_blocks(strings, self._special)

    def encode_document(self, strings: Iterable[str]) -> Iterator[np.ndarray]:
        """`encode_blocks` of one document, in which `<|endoftext|>` is ordinary text; other special tokens are not."""
        return self._encode_blocks(strings, self._special_in_document)

    @property
    def is_separable(self) -> bool:
        """Unless a cut might be inside a special token."""
        return not any(map(last_break, self.special_tokens))

    def separable(self, strings: Iterable[str]) -> Iterator[str]:
        """One document, cut anywhere -> the same, cut where every pattern cuts."""
        return independent_blocks(strings, SpecialTokens())

    def _encode_blocks(self, strings: Iterable[str], special: SpecialTokens) -> Iterator[np.ndarray]:
        encoder = self._encoder
        for ids, token in encode_stream(strings, special, encoder.encode, encoder.encode_settled):
            yield ids.astype(self.dtype)
            if token is not None:
                yield np.array([self.special_tokens[token]], self.dtype)

    def _encode(self, text: str, special: SpecialTokens) -> np.ndarray:
        """The ids of a text, uint32."""
        try:
            if not special.find(text):
                return self._encoder.encode(text)
            cuts = [(self._encoder.encode(ordinary), token) for ordinary, token in special.split(text)]
        except UnicodeEncodeError:
            return self._encode(repair(text), special)
        ends = {token: np.array([token_id], np.uint32) for token, token_id in self.special_tokens.items()}
        return np.concatenate([part for ids, token in cuts for part in (ids, *([ends[token]] if token else ()))])

    def missing_bytes(self) -> list[int]:
        """The bytes of UTF-8 text that have no token; empty, unless the vocabulary can't encode every text."""
        return [byte for byte in BYTES_OF_TEXT if bytes([byte]) not in self._ids]

    # --- decoding ---

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that aren't UTF-8 become U+FFFD, and unused ids nothing.

        Raises UserError for an id out of range.
        """
        try:
            return self._decode(ids).decode("utf-8", errors="replace")
        except KeyError as unknown:
            raise unknown_id(unknown, self.vocab_size) from None

    def _decode(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`. Raises `KeyError` for one that is out of range."""
        if isinstance(ids, list) and len(ids) >= MANY:
            with suppress(OverflowError, TypeError):  # from something that is no id; below, the error names it
                ids = np.array(array("I", ids))
        if isinstance(ids, np.ndarray) and len(ids) >= MANY and ids.min() >= 0:
            return self._encoder.decode(ids)
        return b"".join(map(self._tokens.__getitem__, plain_ids(ids)))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of an id; b"" for special tokens and unused ids. Raises UserError for an id out of range."""
        if token_id not in self._tokens:
            raise unknown_id(token_id, self.vocab_size)
        return b"" if token_id in self.special_tokens.values() else self._tokens[token_id]

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """int32 (vocab_size,): the bytes of each id, 0 for special tokens and unused ids."""
        lengths = np.zeros(self.vocab_size, dtype=np.int32)
        lengths[list(self._tokens)] = [len(token) for token in self._tokens.values()]
        lengths[list(self.special_tokens.values())] = 0
        return lengths

    @cached_property
    def assigned(self) -> np.ndarray:
        """bool (vocab_size,): whether a token has the id."""
        assigned = np.ones(self.vocab_size, dtype=bool)
        assigned[self._unused_ids] = False
        return assigned

    def to_json(self) -> dict[str, Any]:
        """The content of `tokenizer.json`."""
        merges = merges_of_ranks(self._ids) if self._merges is None else self._merges
        return bpe_json(self._ids, merges, self.special_tokens, self.pattern, ignore_merges=self._ignore_merges)


def _merge_ranks(merges: list[tuple[bytes, bytes]], ids: dict[bytes, int]) -> dict[tuple[bytes, bytes], int]:
    """Pair -> its place in the list of merges."""
    for place, (left, right) in enumerate(merges):
        if left + right not in ids:
            raise UserError(f"merge {place} makes {left + right!r}, which vocab lacks; give both from one training")
    return {pair: place for place, pair in reversed(list(enumerate(merges)))}


def _checked_size(tokens: Iterable[int]) -> int:
    """The size of a vocabulary with these ids. Raises `UserError` for ids that cannot be meant."""
    least, most = min(tokens, default=0), max(tokens, default=-1)
    if least < 0 or most >= MOST_IDS:
        wrong = least if least < 0 else most
        raise UserError(f"a token has the id {wrong}; ids must be from 0 to {MOST_IDS - 1:,}")
    return most + 1


def _special_ids(
    tokens: Sequence[str] | Mapping[str, int], vocab: dict[int, bytes], ids: dict[bytes, int]
) -> dict[str, int]:
    """Special token -> id: as given, or that of its bytes in the vocabulary, or the next free one."""
    if isinstance(tokens, str):
        raise UserError(f"special_tokens is the string {tokens!r}; give a list of strings")
    given = dict(tokens) if isinstance(tokens, Mapping) else {}
    free = count(max([*vocab, *given.values()], default=-1) + 1)
    owners: dict[int, bytes] = {}
    special: dict[str, int] = {}
    for token in dict.fromkeys(tokens):
        data = token.encode("utf-8")
        token_id = given.get(token, ids.get(data))
        special[token] = next(free) if token_id is None else token_id
        owner = owners.setdefault(special[token], vocab.get(special[token], data))
        if owner != data:
            raise UserError(f"special token {token!r} has the id {special[token]} of {owner!r}; give it another")
    return special
