"""Keyed randomness: every draw is a function of (seed, what it is for, step or position), never of what ran before.

That is what lets a run resume bit for bit: nothing needs to remember the state of a generator, it is computed again.
"""

import hashlib

import numpy as np


def key(seed: int, *purpose: str | int) -> int:
    """A 63-bit integer that belongs to (seed, purpose), the same on every machine and in every process.

    63 bits, so that it is a valid seed for `random.Random`, numpy and torch alike.

    >>> key(1, "dropout", 7) == key(1, "dropout", 7) != key(1, "dropout", 8)
    True
    """
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A numpy generator that belongs to (seed, purpose)."""
    return np.random.Generator(np.random.Philox(key=key(seed, *purpose)))
