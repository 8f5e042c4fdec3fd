"""The key-value cache: what attention has already computed, kept for the tokens to come."""

import torch
from torch import Tensor

from llamita.config import ModelConfig


class NoCache:
    """The empty cache, of training: attention sees the keys and values of this call only."""

    def append(self, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Hand back what came in."""
        return k, v


NO_CACHE = NoCache()


class KVCache:
    """Keys and values of every layer for a fixed number of sequences ("slots"), allocated once, written in place.

    The key of position p lies at index p of its slot. Slots may have different lengths; a token given the position -1
    is padding: it is computed along, but neither kept nor seen by anyone.

        keys, values   (num_layers, slots, num_kv_heads, max_seq_len + 1, head_dim)
        lengths        (slots,) int64: tokens held

    The one place behind max_seq_len is where index -1, padding, is written; nobody reads it.
    """

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        max_seq_len: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        """Room for `slots` sequences of `max_seq_len` tokens, no more than the model's context (`ValueError`)."""
        if max_seq_len > config.max_seq_len:
            raise ValueError(f"a cache of {max_seq_len} tokens is longer than the context of {config.max_seq_len}")
        shape = (config.num_layers, slots, config.num_kv_heads, max_seq_len + 1, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = torch.zeros(slots, dtype=torch.int64, device=device)
        self.max_seq_len = max_seq_len
        self.longest = 0  # = lengths.max(), kept on the host

    def next_positions(self, seq: int) -> Tensor:
        """(slots, seq): the positions that the next `seq` tokens of every slot take."""
        return self.lengths.unsqueeze(1) + torch.arange(seq, device=self.lengths.device)

    def claim(self, positions: Tensor) -> None:
        """Make room for tokens at `positions` (slots, seq). Raises `ValueError` where the cache is too short."""
        if positions.shape[0] != len(self.lengths):
            raise ValueError(f"the cache has {len(self.lengths)} slots, but the batch has {positions.shape[0]} rows")
        end = int(positions.max()) + 1
        if end > self.max_seq_len:
            raise ValueError(f"the cache holds {self.max_seq_len} tokens a slot; position {end - 1} does not fit")
        self.lengths = torch.maximum(self.lengths, positions.amax(dim=1) + 1)
        self.longest = max(self.longest, end)

    def visible(self, positions: Tensor) -> Tensor:
        """(slots, 1, seq, longest) bool: a query sees the keys up to its own position."""
        keys = torch.arange(self.longest, device=positions.device)
        # Padding has to see something, since a softmax over nothing is nan: let it see the first key.
        return (keys <= positions.clamp(min=0).unsqueeze(-1)).unsqueeze(1)

    def layer(self, index: int) -> "LayerCache":
        """The part of one layer."""
        return LayerCache(self.keys[index], self.values[index], self.longest)

    def clear(self, slot: int) -> None:
        """Forget the sequence in `slot`."""
        self.lengths[slot] = 0
        self.longest = int(self.lengths.max())


class LayerCache:
    """The keys and values of one layer, a view into a `KVCache`."""

    def __init__(self, keys: Tensor, values: Tensor, longest: int):
        self.keys, self.values, self.longest = keys, values, longest  # (slots, kv_heads, max_seq_len + 1, head_dim)

    def append(self, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """k, v (slots, kv_heads, seq, head_dim) to their places -> all keys and values up to the longest slot."""
        slots = torch.arange(len(self.keys), device=positions.device).unsqueeze(1)  # against positions (slots, seq)
        self.keys[slots, :, positions] = k.transpose(1, 2).to(self.keys.dtype)
        self.values[slots, :, positions] = v.transpose(1, 2).to(self.values.dtype)
        return self.keys[:, :, : self.longest], self.values[:, :, : self.longest]
