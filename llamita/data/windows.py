"""Windows: what one sequence of a batch sees of a token file, and the batches that are made of them."""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from llamita.data.token_file import TokenFile
from llamita.errors import UserError
from llamita.targets import IGNORED

PADDING = -1  # the document of positions that stand behind the end of a sequence


class Batch(NamedTuple):
    """Sequences to train on or to score, each field (batch, seq) int64.

    `targets` holds the token that follows each of `ids`, or -100 where nothing is to be predicted. `document_ids`
    numbers the documents of each row from 0, an end token belonging to the document that it ends; -1 is padding.
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
        # Out of pinned memory CUDA copies while the processor goes on; torch keeps it until that is done.
        return Batch(*(tensor.pin_memory().to(device, non_blocking=True) for tensor in self))


class Windows(Protocol):
    """A numbered set of windows, from which a batch of any of them can be made."""

    def __len__(self) -> int:
        """The number of windows."""
        ...

    def batch(self, indices: np.ndarray) -> Batch:
        """The windows of these numbers, (batch,) -> (batch, seq)."""
        ...


class StreamWindows:
    """The token stream cut at the context, across documents: window w has inputs ids[wT : wT+T], targets one later.

    Args:
        token_file: the tokens.
        context_length: T, the length of a window.
        include_remainder: whether what is left behind the last whole window makes a shorter one, padded with targets
            of -100. Evaluation needs it, to score every target once.

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
        if self._num_windows == 0:
            raise UserError(_too_short(token_file, 1 if include_remainder else context_length))

    def __len__(self) -> int:
        """The number of windows."""
        return self._num_windows

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
    """One window per document, which starts at it: inputs end, t1 … tn and targets t1 … tn, end.

    So a document is predicted from its first token to its end, out of nothing but itself. Of one that is longer than
    the context, the beginning is kept. Shorter ones are padded with end tokens, and targets of -100.

    Args:
        token_file: the tokens.
        context_length: the most tokens of a window.
        end_id: the end token; the token file's own when not given.

    Raises:
        UserError: the tokenizer has no end token.
    """

    def __init__(self, token_file: TokenFile, context_length: int, end_id: int | None = None):
        end_id = token_file.end_id if end_id is None else end_id
        if end_id is None:
            raise UserError(
                f"{token_file.path}: windows that start at documents need a tokenizer with an end token; "
                "use stream windows or another tokenizer"
            )
        self._token_file = token_file
        self._context_length = context_length
        self._end_id = end_id

    def __len__(self) -> int:
        """The number of documents."""
        return len(self._token_file.document_starts)

    def batch(self, indices: np.ndarray) -> Batch:
        """The windows of these documents: (batch,) -> (batch, seq).

        `seq` is the longest of them, rounded up to a multiple of 8 to have few shapes, at most the context length.
        """
        indices = _checked(indices, len(self))
        starts = self._token_file.document_starts[indices][:, None]
        lengths = self._token_file.document_ends[indices][:, None] - starts
        seq = min(-(-int(lengths.max()) // 8) * 8, self._context_length)
        offsets = np.arange(seq)  # (seq,), against starts and lengths of (batch, 1)
        last = len(self._token_file) - 1
        tokens = self._token_file.ids[np.minimum(starts + offsets, last)].astype(np.int64)
        padding = offsets >= lengths
        before = np.concatenate([np.full_like(starts, self._end_id), tokens[:, :-1]], axis=1)
        ids = np.where(padding, self._end_id, before)
        return _batch(ids, np.where(padding, IGNORED, tokens), np.where(padding, PADDING, 0))


def random_batch(
    ids: np.ndarray | list[int],
    batch_size: int,
    context_length: int,
    device: torch.device | str,
    rng: np.random.Generator | int | None = None,
) -> tuple[Tensor, Tensor]:
    """Crops from random places, for other people's loops (as in nanoGPT's `get_batch`); ours uses `BatchOrder`.

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
