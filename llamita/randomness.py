"""Keyed randomness: random values are a function of (seed, purpose, step or position), never of what ran before.

That makes resuming bitwise exact: there is no generator state to save, it is derived again from the key.
"""

import hashlib


def key(seed: int, *purpose: str | int) -> int:
    """A 63-bit integer derived from (seed, purpose), the same on every machine and in every process.

    63 bits, so that it is a valid seed for `random.Random`, numpy and torch alike.

    >>> key(1, "dropout", 7) == key(1, "dropout", 7) != key(1, "dropout", 8)
    True
    """
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
