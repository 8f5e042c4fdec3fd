"""The order of training: which windows are in the batch of a step, as a pure function of (seed, step).

Nothing is shuffled and nothing is stored. Each epoch is a keyed permutation of the windows, of which each element
can be computed on its own, in O(1) time and memory: resuming at a step needs nothing but the step.
"""

import math
from dataclasses import dataclass

import numpy as np

from llamita import randomness

ROUNDS = 8


@dataclass(frozen=True)
class BatchOrder:
    """Sequence g = step * batch_size + i of a run is an element of the permutation of epoch g // num_windows.

    So every epoch has each window exactly once, also when the batch does not divide the epoch or is larger than it.

    Args:
        num_windows: windows in an epoch, at least 1.
        batch_size: sequences of one update, over all micro-batches and processes together.
        seed: the seed of the run.
    """

    num_windows: int
    batch_size: int
    seed: int

    def __post_init__(self):
        if self.num_windows < 1 or self.batch_size < 1:
            raise ValueError(f"a batch order needs windows and a batch size of at least 1, not {self}")

    def indices(self, step: int) -> np.ndarray:
        """The window numbers of the global batch at this step (from 0): (batch_size,) int64."""
        if step < 0:
            raise ValueError(f"steps count from 0, not {step}")
        sequences = step * self.batch_size + np.arange(self.batch_size, dtype=np.int64)
        epochs, places = np.divmod(sequences, self.num_windows)
        windows = np.empty_like(places)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            epoch_key = randomness.key(self.seed, "batch order", epoch)
            windows[here] = permute(places[here], self.num_windows, epoch_key)
        return windows

    def ends_epoch(self, steps: int) -> bool:
        """Whether the last of `steps` updates completed an epoch, or several."""
        return steps * self.batch_size // self.num_windows > (steps - 1) * self.batch_size // self.num_windows

    def steps(self, epochs: float) -> int:
        """The number of steps that complete this many epochs."""
        return math.ceil(epochs * self.num_windows / self.batch_size)


def permute(index: np.ndarray, n: int, key: int) -> np.ndarray:
    """Where a pseudorandom permutation of 0 … n−1 takes each index: (any shape) -> (same shape) int64.

    A Feistel network (Luby & Rackoff, 1988) permutes the numbers of an even count of bits, at least as many as n
    needs. What lands at n or beyond goes through again until it lands below: cycle walking (Black & Rogaway, 2002)
    turns it into a permutation of 0 … n−1. Below n = 64 the network is larger than necessary: tiny ones mix badly.

    Args:
        index: integers in [0, n).
        n: the size of the permutation, at most 2^62.
        key: chooses the permutation; 63 bits, as from `randomness.key`.
    """
    half_bits = max(3, ((n - 1).bit_length() + 1) // 2)
    round_keys = _mix(np.arange(1, ROUNDS + 1, dtype=np.uint64) * _GOLDEN + np.uint64(key))
    values = np.array(index, dtype=np.uint64).ravel()
    walking = np.arange(values.size)
    while walking.size > 0:  # fewer than four times on average from n = 64 on, as 4^half_bits <= 4 n
        landed = _feistel(values[walking], half_bits, round_keys)
        values[walking] = landed
        walking = walking[landed >= n]
    return values.astype(np.int64).reshape(np.shape(index))


def _feistel(values: np.ndarray, half_bits: int, round_keys: np.ndarray) -> np.ndarray:
    """A permutation of the numbers of 2 * half_bits bits: each round can be undone, whatever `_mix` does."""
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for round_key in round_keys:
        left, right = right, left ^ (_mix(right ^ round_key) & mask)
    return (left << shift) | right


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: steps that never repeat and fill the 64 bits evenly


def _mix(x: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea & Flood, 2014), modulo 2^64: each bit reaches every other."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
