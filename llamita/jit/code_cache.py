"""The cache of compiled kernels: one file each, in folders that only this user (or root) can write to.

Loading machine code from a folder means running whatever is in it. So a folder is trusted only if it and all its
parents are owned by this user or root, and nobody else can write to them. A file is named `KERNEL-KEY-CHECKSUM.suffix`:
the key (`digest.py`) identifies what the code was compiled from; the checksum is verified before the file is mapped,
since a truncated library would kill the process with SIGBUS.

Files are written to a temporary name and renamed, so readers see a complete file or none. A new file replaces those of
the same kernel with other keys; processes that have loaded those keep them, since unlinked files live until unmapped.
"""

import glob
import hashlib
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from llamita.files import default_cache

CHECKSUM_DIGITS = 32  # of the hexadecimal sha256
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
ABANDONED_AFTER = 3600.0  # seconds, after which no running process still needs a temporary file


def find(source: Path, kernel: str, key: str) -> Iterator[Path]:
    """The intact, trusted files of a kernel with this key. Removes damaged ones.

    source: the file that defines the kernel; its `__pycache__` is one place to look.
    """
    for folder in filter(None, map(trusted, _candidates(source))):
        for file in folder.glob(f"{glob.escape(f'{kernel}-{key}')}-*"):
            with suppress(OSError):  # removed meanwhile, or not readable
                if not _is_safe(file.lstat(), stat.S_ISREG):
                    continue
                if file.stem.endswith("-" + _checksum(file.read_bytes())):
                    yield file
                else:
                    file.unlink()


def save(source: Path, kernel: str, key: str, code: bytes, suffix: str) -> Iterator[Path]:
    """Write code to the cache -> its file in the first writable folder, then in the next, and so on.

    The caller takes the first file that it can load: some file systems are mounted noexec. Yields nothing if no folder
    is private, or if all are full or read-only.
    """
    for candidate in _candidates(source):
        with suppress(OSError):
            if candidate.name != "__pycache__":  # Python creates that one
                candidate.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = trusted(candidate)
            if folder is not None:
                file = _write(folder, f"{kernel}-{key}-{_checksum(code)}{suffix}", code)
                _remove_stale(folder, kernel, key)
                yield file


def trusted(folder: Path) -> Path | None:
    """The real path of a folder that only this user and root can write to, including its parents; else None.

    A parent that others can write to is accepted if it is sticky, like /tmp: nobody can rename another user's folder
    there. On Windows, folders in the user's profile are accepted, which Windows itself protects.
    """
    try:
        real = folder.resolve(strict=True)
        if sys.platform == "win32":
            return real if real.is_relative_to(Path.home().resolve()) else None
        parents_are_safe = all(_is_safe(parent.lstat(), stat.S_ISDIR, sticky=True) for parent in real.parents)
        return real if parents_are_safe and _is_safe(real.lstat(), stat.S_ISDIR) else None
    except (OSError, RuntimeError):  # no such folder, or no home directory
        return None


def _candidates(source: Path) -> Iterator[Path]:
    """Folders that may hold the code, best first; the last is for users whose cache folder others can write to.

    By default the first is next to the source, so that each checkout has its own. $LLAMITA_KERNEL_CACHE or
    $LLAMITA_CACHE replaces it.
    """
    if folder := os.environ.get("LLAMITA_KERNEL_CACHE"):
        yield Path(folder)
    elif not os.environ.get("LLAMITA_CACHE"):
        yield source.parent / "__pycache__"
    with suppress(RuntimeError):  # no home directory
        yield default_cache() / "kernels"
        yield Path.home() / (f".llamita-kernels-{os.getuid()}" if sys.platform != "win32" else ".llamita-kernels")


def _is_safe(status: os.stat_result, is_kind: object, *, sticky: bool = False) -> bool:
    """Whether a file or folder is of this kind, is owned by this user or root, and is writable only by its owner."""
    if not is_kind(status.st_mode):  # type: ignore[operator]
        return False
    if sys.platform == "win32":
        return True
    closed = not status.st_mode & OTHERS_WRITE or (sticky and bool(status.st_mode & stat.S_ISVTX))
    return closed and status.st_uid in (os.getuid(), 0)


def _write(folder: Path, name: str, code: bytes) -> Path:
    """Write a temporary file and rename it. Leaves nothing behind if the disk is full."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(code)
        os.chmod(temporary, 0o644)
        os.replace(temporary, folder / name)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return folder / name


def _remove_stale(folder: Path, kernel: str, key: str) -> None:
    """Remove a kernel's files with other keys, and temporary files that killed processes left."""
    for file in folder.glob(f"{glob.escape(kernel)}-*"):
        if not file.name.startswith(f"{kernel}-{key}-"):
            with suppress(OSError):  # removed meanwhile; or in use, on Windows
                file.unlink()
    for file in folder.glob(f".{glob.escape(kernel)}-*.tmp"):
        with suppress(OSError):
            if file.stat().st_mtime < time.time() - ABANDONED_AFTER:
                file.unlink()


def _checksum(code: bytes) -> str:
    return hashlib.sha256(code).hexdigest()[:CHECKSUM_DIGITS]
