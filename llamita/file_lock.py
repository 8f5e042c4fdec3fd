"""Exclusive locks on files, on every operating system."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_EVERY = 0.1  # seconds between attempts while waiting


@contextmanager
def file_lock(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock on `path`, an empty file that is created where missing and never deleted.

    The operating system releases it when the process ends, even by `kill -9`. If another process holds it, this raises
    `BlockingIOError`, or waits if `wait`. Raises `OSError` if the file cannot be opened, or the file system has no
    locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        while not _try_lock(descriptor):
            if not wait:
                raise BlockingIOError(f"{path} is locked by another process")
            time.sleep(POLL_EVERY)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Lock an open file -> whether no other process holds the lock."""
    try:
        import fcntl
    except ImportError:
        return _try_lock_on_windows(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_lock_on_windows(descriptor: int) -> bool:
    """The same on Windows, which locks ranges of bytes: here the first byte, which need not exist."""
    import msvcrt

    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
    except PermissionError:  # EACCES: locked by another process
        return False
    return True
