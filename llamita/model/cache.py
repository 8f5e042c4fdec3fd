"""The key-value cache: keys and values of earlier tokens, so that each decode step computes only the new ones."""

import torch
from torch import Tensor

from llamita.config import ModelConfig


class NoCache:
    """The empty cache, used in training: attention sees only the keys and values of this call."""

    def append(self, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return k and v unchanged."""
        return k, v


NO_CACHE = NoCache()


class KVCache:
    """Keys and values of every layer for a fixed number of sequences ("slots"), allocated once and written in place.

    The key of position p is at index p of its slot. Slots may have different lengths. A token at position -1 is
    padding: it is computed with the batch, but never attended to.

        keys, values   (num_layers, slots, num_kv_heads, max_seq_len + 1, head_dim)
        lengths        (slots,) int64: number of cached tokens

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
        self.lengths = torch.zeros(slots, dtype=torch.int64, device=device)
        self.max_seq_len = max_seq_len
        self.longest = 0  # = lengths.max(), on the host

    def next_positions(self, seq: int) -> Tensor:
        """(slots, seq): the positions of the next `seq` tokens of every slot."""
        return self.lengths.unsqueeze(1) + torch.arange(seq, device=self.lengths.device)

    def reserve(self, positions: Tensor) -> None:
        """Extend the slots to tokens at `positions` (slots, seq). Raises `ValueError` if the cache is too short."""
        if positions.shape[0] != len(self.lengths):
            raise ValueError(f"the cache has {len(self.lengths)} slots, but the batch has {positions.shape[0]} rows")
        end = int(positions.max()) + 1
        if end > self.max_seq_len:
            raise ValueError(f"the cache holds {self.max_seq_len} tokens per slot; position {end - 1} does not fit")
        self.lengths = torch.maximum(self.lengths, positions.amax(dim=1) + 1)
        self.longest = max(self.longest, end)

    def causal_mask(self, positions: Tensor) -> Tensor:
        """(slots, 1, seq, longest) bool: a query attends to keys up to its own position."""
        keys = torch.arange(self.longest, device=positions.device)
        # Padding attends to the first key: softmax over no keys would be NaN.
        return (keys <= positions.clamp(min=0).unsqueeze(-1)).unsqueeze(1)

    def layer(self, index: int) -> "LayerCache":
        """The cache of one layer."""
        return LayerCache(self.keys[index], self.values[index], self.longest)

    def clear(self, slot: int) -> None:
        """Empty a slot for the next sequence."""
        self.lengths[slot] = 0
        self.longest = int(self.lengths.max())


class LayerCache:
    """The keys and values of one layer, a view into a `KVCache`."""

    def __init__(self, keys: Tensor, values: Tensor, longest: int):
        self.keys, self.values, self.longest = keys, values, longest  # (slots, kv_heads, max_seq_len + 1, head_dim)

    def append(self, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Write k, v (slots, kv_heads, seq, head_dim) at `positions` -> keys and values up to the longest slot."""
        slots = torch.arange(len(self.keys), device=positions.device).unsqueeze(1)  # broadcasts with (slots, seq)
        self.keys[slots, :, positions] = k.transpose(1, 2).to(self.keys.dtype)
        self.values[slots, :, positions] = v.transpose(1, 2).to(self.values.dtype)
        return self.keys[:, :, : self.longest], self.values[:, :, : self.longest]
