"""The key-value cache: keys and values of earlier tokens, so that each decode step computes only the new ones."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from llamita.config import ModelConfig


class NoCache:
    """The empty cache, used in training: attention sees only the keys and values of this call."""

    lengths = None

    def append(self, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return k and v unchanged."""
        return k, v


NO_CACHE = NoCache()


class KVCache:
    """Keys and values of every layer for a fixed number of sequences ("slots"), allocated once and written in place.

    The key of position p is at index p of its slot. Slots may have different lengths, and each attends over its own
    keys only. A token at position -1 is padding: it is computed with the batch, but never attended to.

        keys, values   (num_layers, slots, num_kv_heads, max_seq_len + 1, head_dim)
        lengths        (slots,) int64, on the CPU: number of cached tokens

    The extra index after max_seq_len is where padding (index -1) is written; it is never read.
    """

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        max_seq_len: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        """Allocate `slots` sequences of `max_seq_len` tokens, at most the model's context length (`ValueError`)."""
        if max_seq_len > config.max_seq_len:
            raise ValueError(f"a cache of {max_seq_len} tokens is longer than the context of {config.max_seq_len}")
        shape = (config.num_layers, slots, config.num_kv_heads, max_seq_len + 1, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = torch.zeros(slots, dtype=torch.int64)
        self.max_seq_len = max_seq_len

    def next_positions(self, seq: int) -> Tensor:
        """(slots, seq): the positions of the next `seq` tokens of every slot."""
        return (self.lengths.unsqueeze(1) + torch.arange(seq)).to(self.keys.device)

    def reserve(self, positions: Tensor) -> None:
        """Extend the slots to tokens at `positions` (slots, seq). Raises `ValueError` if the cache is too short."""
        if positions.shape[0] != len(self.lengths):
            raise ValueError(f"the cache has {len(self.lengths)} slots, but the batch has {positions.shape[0]} rows")
        ends = positions.amax(dim=1).cpu() + 1  # (slots,)
        if (end := int(ends.max())) > self.max_seq_len:
            raise ValueError(f"the cache holds {self.max_seq_len} tokens per slot; position {end - 1} does not fit")
        self.lengths.copy_(torch.maximum(self.lengths, ends))

    def causal_mask(self, positions: Tensor) -> Tensor | None:
        """(slots, 1, seq, keys) bool: a query attends to keys up to its own position, where `keys` is the longest slot.

        None if the tokens of each slot are its last ones, or all of them padding: plain causal attention.
        """
        own = positions.cpu()
        last = self.lengths.unsqueeze(1) + torch.arange(-positions.shape[1], 0)  # (slots, seq)
        if ((own == last).all(dim=1) | (own < 0).all(dim=1)).all():
            return None
        keys = torch.arange(int(self.lengths.max()), device=positions.device)
        # Padding attends to the first key: softmax over no keys would be NaN.
        return (keys <= positions.clamp(min=0).unsqueeze(-1)).unsqueeze(1)

    def layer(self, index: int) -> "LayerCache":
        """The cache of one layer."""
        lengths = self.lengths.clamp(min=1).tolist()  # in an empty slot, padding attends to whatever is there
        return LayerCache(self.keys[index], self.values[index], lengths)

    def slot(self, index: int) -> "KVCache":
        """A view of one slot, as a cache of its own: what it appends is appended here."""
        view, own = copy.copy(self), slice(index, index + 1)
        view.keys, view.values, view.lengths = self.keys[:, own], self.values[:, own], self.lengths[own]
        return view

    def copy_slot(self, source: int, target: int, length: int) -> None:
        """Make the first `length` tokens of slot `source` the content of slot `target`."""
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]
        self.lengths[target] = length

    def clear(self, slot: int) -> None:
        """Empty a slot for the next sequence."""
        self.lengths[slot] = 0


class LayerCache:
    """The keys and values of one layer, a view into a `KVCache`."""

    def __init__(self, keys: Tensor, values: Tensor, lengths: Sequence[int]):
        self.keys, self.values = keys, values  # (slots, kv_heads, max_seq_len + 1, head_dim)
        self.lengths = lengths  # of the keys that each slot attends to

    def append(self, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Write k, v (slots, kv_heads, seq, head_dim) at `positions` -> all keys and values of the slots."""
        slots = torch.arange(len(self.keys), device=positions.device).unsqueeze(1)  # broadcasts with (slots, seq)
        self.keys[slots, :, positions] = k.transpose(1, 2).to(self.keys.dtype)
        self.values[slots, :, positions] = v.transpose(1, 2).to(self.values.dtype)
        return self.keys, self.values
