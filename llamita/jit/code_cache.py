"""The cache of compiled kernels: one file each, in folders that only this user (or root) can write to.

Loading machine code from a folder is running whatever its owner put there. So a folder counts only if it and all its
parents belong to this user or root, and nobody else can write to them. A file's name is
`KERNEL-KEY-CHECKSUM.suffix`: the key (`digest.py`) says what the code was compiled from, the checksum is verified
before the file is mapped, since a truncated library would end the process with SIGBUS.

Files are written aside and renamed, so a reader sees a whole file or none. A new file replaces those of the same kernel
with other keys; processes that have loaded them keep them, as unlinked files live until they are unmapped.
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

CHECKSUM_DIGITS = 32  # of sha256, in hexadecimal
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
ABANDONED_AFTER = 3600.0  # seconds, after which a temporary file belongs to no running process


def find(source: Path, kernel: str, key: str) -> Iterator[Path]:
    """The intact files of a kernel with this key that may be loaded. Damaged ones are removed.

    source: the file that the kernel is written in, beside which its code may be kept.
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


def keep(source: Path, kernel: str, key: str, code: bytes, suffix: str) -> Iterator[Path]:
    """Write code into the cache -> its file, in the first folder where that works; then in the next, and so on.

    The caller takes the first file that it can load: nothing may be executed from some file systems. Yields nothing
    where no folder is private, or all are full or read-only.
    """
    for candidate in _candidates(source):
        with suppress(OSError):
            if candidate.name != "__pycache__":  # which is for Python to make
                candidate.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = trusted(candidate)
            if folder is not None:
                file = _write(folder, f"{kernel}-{key}-{_checksum(code)}{suffix}", code)
                _remove_stale(folder, kernel, key)
                yield file


def trusted(folder: Path) -> Path | None:
    """The real path of a folder that only this user and root can write to, including its parents; else None.

    A parent that others can write to counts where it is sticky, as /tmp: nobody can rename what is another's there. On
    Windows, folders in the user's profile count, which Windows itself protects.
    """
    try:
        real = folder.resolve(strict=True)
        if sys.platform == "win32":
            return real if real.is_relative_to(Path.home().resolve()) else None
        parents_are_safe = all(_is_safe(parent.lstat(), stat.S_ISDIR, sticky=True) for parent in real.parents)
        return real if parents_are_safe and _is_safe(real.lstat(), stat.S_ISDIR) else None
    except (OSError, RuntimeError):  # there is no such folder, or no home
        return None


def _candidates(source: Path) -> Iterator[Path]:
    """The folders that may hold the code, best first; the last is for users whose cache others can write to.

    Beside the source, each checkout has its own. Where $LLAMITA_CACHE names a folder, that comes in its place.
    """
    if not os.environ.get("LLAMITA_CACHE"):
        yield source.parent / "__pycache__"
    with suppress(RuntimeError):  # there is no home
        yield default_cache() / "kernels"
        yield Path.home() / (f".llamita-kernels-{os.getuid()}" if sys.platform != "win32" else ".llamita-kernels")


def _is_safe(status: os.stat_result, is_kind: object, *, sticky: bool = False) -> bool:
    """Whether a file or folder is of this kind, belongs to this user or root, and only its owner can write to it."""
    if not is_kind(status.st_mode):  # type: ignore[operator]
        return False
    if sys.platform == "win32":
        return True
    closed = not status.st_mode & OTHERS_WRITE or (sticky and bool(status.st_mode & stat.S_ISVTX))
    return closed and status.st_uid in (os.getuid(), 0)


def _write(folder: Path, name: str, code: bytes) -> Path:
    """Write a file aside and rename it. Nothing is left where the disk is full."""
    descriptor, aside = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(code)
        os.chmod(aside, 0o644)
        os.replace(aside, folder / name)
    except BaseException:
        with suppress(OSError):
            os.unlink(aside)
        raise
    return folder / name


def _remove_stale(folder: Path, kernel: str, key: str) -> None:
    """Remove the files of a kernel with other keys, and temporary files of processes that were killed."""
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
