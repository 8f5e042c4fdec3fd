"""Files that are hashed while they are read, so that the fingerprint of a text needs no reading of its own."""

import hashlib
import io
import os
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

from llamita.errors import UserError

BUFFER = 1 << 20  # bytes


class FileDigest:
    """The sha256 of a file's bytes, as far as they have been read in order.

    advanced: called with how many bytes were read for the first time.
    """

    def __init__(self, path: Path, advanced: Callable[[int], object] = int):
        self._path, self._advanced = path, advanced
        self._digest = hashlib.sha256()
        self._hashed = 0
        self._opened: tuple[int, int] | None = None

    def open_bytes(self) -> BufferedReader:
        """Open the file to read it; raises `OSError`."""
        raw = self._path.open("rb", buffering=0)
        if self._opened is None:
            self._opened = _version(os.fstat(raw.fileno()))
        return BufferedReader(_Hashing(raw, self), BUFFER)

    def take(self, start: int, data: memoryview) -> None:
        """Hash what is new of the bytes that were read at `start`. A gap ends the hashing, until `finish`."""
        if start <= self._hashed < start + len(data):
            new = data[self._hashed - start :]
            self._digest.update(new)
            self._hashed += len(new)
            self._advanced(len(new))

    def finish(self) -> bytes:
        """The sha256 of the whole file: the rest of it, which nobody has read, is read now.

        Raises `UserError` where the file cannot be read, or has changed since it was opened first.
        """
        try:
            with self.open_bytes() as stream:
                stream.seek(self._hashed)
                while stream.read(BUFFER):
                    pass
            now = _version(self._path.stat())
        except OSError as error:
            raise unreadable(self._path, error) from error
        if now != self._opened:
            raise UserError(f"{shown(self._path)}: the text changed while it was read; start again")
        return self._digest.digest()


class _Hashing(io.RawIOBase):
    """The bytes of a file; they are hashed as they are read."""

    def __init__(self, raw: io.FileIO, digest: FileDigest):
        super().__init__()
        self._raw, self._digest = raw, digest

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        start = self._raw.tell()
        size = self._raw.readinto(buffer)
        self._digest.take(start, memoryview(buffer)[:size])
        return size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def close(self) -> None:
        self._raw.close()
        super().close()


def shown(path: Path) -> str:
    r"""A path to print or write down: bytes of it that are not UTF-8 as \xe9."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def unreadable(path: Path, error: OSError) -> UserError:
    """The error for a file that cannot be read."""
    return UserError(f"{shown(path)}: cannot be read ({error.strerror}); check the path and its permissions")


def _version(status: os.stat_result) -> tuple[int, int]:
    """What changes when a file is written to: its size, or the time."""
    return status.st_size, status.st_mtime_ns
