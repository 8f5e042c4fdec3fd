"""Windows: what one sequence of a batch sees of a token file, and the batches that are made of them."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from llamita.data.token_file import TokenFile
from llamita.errors import UserError
from llamita.targets import IGNORED

PADDING = -1  # the document of positions after the end of a sequence
CHUNK = 1 << 20  # documents whose lengths are in memory at a time


class Batch(NamedTuple):
    """Sequences to train on or to score, each field (batch, seq) int64.

    `targets` has the token after each of `ids`, or -100, which the loss ignores. `document_ids` numbers the documents
    of each row from 0; an end token belongs to the document that it ends, and -1 is padding.
    """

    ids: Tensor
    targets: Tensor
    document_ids: Tensor

    @property
    def num_targets(self) -> int:
        """How many targets the loss counts."""
        return int((self.targets != IGNORED).sum())

    def slice(self, start: int, stop: int) -> "Batch":
        """The rows from `start` to before `stop`, for micro-batches and processes."""
        return Batch(self.ids[start:stop], self.targets[start:stop], self.document_ids[start:stop])

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on another device."""
        if torch.device(device).type != "cuda":
            return Batch(*(tensor.to(device) for tensor in self))
        # From pinned memory, CUDA copies asynchronously; torch keeps that memory until the copy is done.
        return Batch(*(tensor.pin_memory().to(device, non_blocking=True) for tensor in self))


class Windows(Protocol):
    """A numbered set of windows, from which a batch of any of them can be made."""

    def __len__(self) -> int:
        """The number of windows."""
        ...

    @property
    def num_targets(self) -> int:
        """How many targets all windows have together."""
        ...

    def batch(self, indices: np.ndarray) -> Batch:
        """The windows of these numbers, (batch,) -> (batch, seq)."""
        ...


class StreamWindows:
    """The token stream cut at the context, across documents: window w has inputs ids[wT : wT+T], targets one later.

    Args:
        token_file: the tokens.
        context_length: T, the length of a window.
        include_remainder: whether the tokens after the last whole window make a shorter one, padded with targets of
            -100. Evaluation needs it, to score every target once.

    Raises:
        UserError: the tokens are too few for a window.
    """

    def __init__(self, token_file: TokenFile, context_length: int, *, include_remainder: bool = False):
        self._token_file = token_file
        self._context_length = context_length
        self._end_id = -1 if token_file.end_id is None else token_file.end_id  # -1 is no token: one document
        num_targets = len(token_file) - 1
        self._num_windows = num_targets // context_length
        if include_remainder and num_targets % context_length > 0:
            self._num_windows += 1
        self._num_targets = min(num_targets, self._num_windows * context_length)
        if self._num_windows == 0:
            raise UserError(_too_short(token_file, 1 if include_remainder else context_length))

    def __len__(self) -> int:
        """The number of windows."""
        return self._num_windows

    @property
    def num_targets(self) -> int:
        """All tokens but the first, and, without a remainder, those after the last whole window."""
        return self._num_targets

    def batch(self, indices: np.ndarray) -> Batch:
        """The windows of these numbers: (batch,) -> (batch, context_length)."""
        starts = _checked(indices, len(self)) * self._context_length
        positions = starts[:, None] + np.arange(self._context_length + 1)  # (batch, seq + 1)
        last = len(self._token_file) - 1
        tokens = self._token_file.ids[np.minimum(positions, last)].astype(np.int64)
        ids, targets = tokens[:, :-1], tokens[:, 1:]
        padding = positions[:, 1:] > last
        return _batch(ids, np.where(padding, IGNORED, targets), np.where(padding, PADDING, self._document_ids(ids)))

    def _document_ids(self, ids: np.ndarray) -> np.ndarray:
        """How many documents have ended before each position of a row."""
        ends = (ids == self._end_id).astype(np.int64)
        return np.cumsum(ends, axis=1) - ends


class DocumentWindows:
    """Windows that never cross a document: inputs start, t1 … tn-1 and targets t1 … tn, tn being its end token.

    So a document is predicted from its first token to its end, from nothing but itself. One that is longer than the
    context has several windows. Each continues where the one before ended, and its first input is the last target of
    that one: every token is a target once. Shorter rows of a batch are padded with start tokens and targets of -100.

    Window d < documents is the first of document d; those that continue long documents have the numbers after these.

    Args:
        token_file: the tokens.
        context_length: T, the most tokens of a window.
        start_id: the first input of a document; the token file's end token when not given.

    Raises:
        UserError: no `start_id` is given, and the tokenizer has no end token.
    """

    def __init__(self, token_file: TokenFile, context_length: int, start_id: int | None = None):
        start_id = token_file.end_id if start_id is None else start_id
        if start_id is None:
            raise UserError(
                f"{token_file.path}: windows that start at documents need a tokenizer with an end token; "
                "use stream windows or another tokenizer"
            )
        self._token_file = token_file
        self._context_length = context_length
        self._start_id = start_id
        self._num_documents = len(token_file.document_starts)
        self._long, further = _long_documents(token_file, context_length)
        self._further_ends = further.cumsum()  # (long,): how many continuing windows they have up to and including it
        self._num_windows = self._num_documents + int(further.sum())

    def __len__(self) -> int:
        """The number of windows: one per document that fits, more per one that does not."""
        return self._num_windows

    @property
    def num_targets(self) -> int:
        """All tokens."""
        return len(self._token_file)

    def batch(self, indices: np.ndarray) -> Batch:
        """The windows of these numbers: (batch,) -> (batch, seq).

        `seq` is the longest of them, rounded up to a multiple of 8 to have few shapes, at most the context length.
        """
        documents, skipped = self._places(_checked(indices, len(self)))
        starts = (self._token_file.document_starts[documents] + skipped)[:, None]
        lengths = self._token_file.document_ends[documents][:, None] - starts
        seq = min(-(-int(lengths.max()) // 8) * 8, self._context_length)
        offsets = np.arange(seq)  # (seq,), against starts and lengths of (batch, 1)
        last = len(self._token_file) - 1
        tokens = self._token_file.ids[np.minimum(starts + offsets, last)].astype(np.int64)
        padding = offsets >= lengths
        before = np.concatenate([self._first_inputs(starts, skipped[:, None]), tokens[:, :-1]], axis=1)
        ids = np.where(padding, self._start_id, before)
        return _batch(ids, np.where(padding, IGNORED, tokens), np.where(padding, PADDING, 0))

    def _places(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The document of each window, and how many of its tokens are before the window: (batch,) int64 each."""
        continuing = indices >= self._num_documents
        documents, skipped = indices.copy(), np.zeros_like(indices)
        numbers = indices[continuing] - self._num_documents
        at = np.searchsorted(self._further_ends, numbers, side="right")  # of `_long`
        begun = np.concatenate([np.zeros(1, np.int64), self._further_ends])[at]
        documents[continuing] = self._long[at]
        skipped[continuing] = (numbers - begun + 1) * self._context_length
        return documents, skipped

    def _first_inputs(self, starts: np.ndarray, skipped: np.ndarray) -> np.ndarray:
        """(batch, 1) int64: the start token, or the token before a window that continues a document."""
        before = self._token_file.ids[np.maximum(starts - 1, 0)].astype(np.int64)
        return np.where(skipped > 0, before, self._start_id)


def longest_document(token_file: TokenFile) -> int:
    """The most tokens of a document, its end token included."""
    return max((int(lengths.max()) for _, lengths in _document_lengths(token_file)), default=0)


def _long_documents(token_file: TokenFile, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The documents that have more than `length` tokens, and how many further windows each needs: (long,) int64."""
    documents, further = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for first, lengths in _document_lengths(token_file):
        long = np.flatnonzero(lengths > length)
        documents.append(first + long)
        further.append((lengths[long] - 1) // length)
    return np.concatenate(documents), np.concatenate(further)


def _document_lengths(token_file: TokenFile) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the first document, lengths in tokens), a chunk of documents at a time."""
    starts, ends = token_file.document_starts, token_file.document_ends
    for first in range(0, len(starts), CHUNK):
        yield first, ends[first : first + CHUNK] - starts[first : first + CHUNK]


def random_batch(
    ids: np.ndarray | list[int],
    batch_size: int,
    context_length: int,
    device: torch.device | str,
    rng: np.random.Generator | int | None = None,
) -> tuple[Tensor, Tensor]:
    """Crops from random positions, for training loops like nanoGPT's (`get_batch`); llamita's uses `BatchOrder`.

    Args:
        ids: tokens, an array (also memory-mapped) or a list.
        batch_size: the number of crops.
        context_length: the length of each.
        device: where the tensors go.
        rng: a generator or a seed; fresh randomness when None.

    Returns:
        inputs and targets, (batch_size, context_length) int64; targets are the inputs one token later.

    Raises:
        ValueError: there are fewer than context_length + 1 tokens.
    """
    ids = np.asarray(ids)
    if ids.ndim != 1 or len(ids) <= context_length:
        raise ValueError(f"{context_length + 1} tokens in one row are needed for a crop, not an array of {ids.shape}")
    starts = np.random.default_rng(rng).integers(len(ids) - context_length, size=batch_size)
    crops = ids[starts[:, None] + np.arange(context_length + 1)].astype(np.int64)  # (batch, seq + 1)
    tokens = torch.from_numpy(crops).to(device)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def _batch(ids: np.ndarray, targets: np.ndarray, document_ids: np.ndarray) -> Batch:
    return Batch(*(torch.from_numpy(np.ascontiguousarray(array)) for array in (ids, targets, document_ids)))


def _checked(indices: np.ndarray, count: int) -> np.ndarray:
    """The window numbers as int64; a number that is no window's would silently wrap around or be clipped."""
    indices = np.asarray(indices, dtype=np.int64)
    if indices.size == 0 or indices.min() < 0 or indices.max() >= count:
        raise IndexError(f"window numbers must be from 0 to {count - 1}, at least one: {indices}")
    return indices


def _too_short(token_file: TokenFile, context_length: int) -> str:
    have, need = len(token_file), context_length + 1
    smaller = f"set --max_seq_len to {have - 1} or less, or " if have > 1 else ""
    return f"{token_file.path}: {have:,} tokens, but one window needs {need:,}; {smaller}bring more text"
