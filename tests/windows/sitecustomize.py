"""Rules of Windows, for every process that finds this file on Python's path.

Modules and signals that only POSIX has are missing; `msvcrt` locks, by the locks that `os` offers; nothing is renamed
over something else, or while it is open.
"""

import errno
import os
import signal
import subprocess  # noqa: F401  (takes `msvcrt` for a sign of Windows: imported before that is there)
import sys
import types
from pathlib import Path

POSIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"}


class Blocker:
    """Finds no module of POSIX."""

    def find_spec(self, name, path=None, target=None):
        if name in POSIX_MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def locking(descriptor: int, mode: int, count: int) -> None:
    """Lock `count` bytes, or raise `PermissionError` where another process has, as Windows does."""
    try:
        os.lockf(descriptor, {2: os.F_TLOCK, 0: os.F_ULOCK}[mode], count)
    except OSError:
        raise PermissionError(errno.EACCES, "Permission denied") from None


def rename_as_on_windows(event: str, arguments: tuple) -> None:
    """Refuse what Windows refuses: a name that is taken, unless a file replaces a file, and what is open."""
    if event != "os.rename":
        return
    source, target = Path(os.fsdecode(arguments[0])), Path(os.fsdecode(arguments[1]))
    by_replace = sys._getframe(1).f_code.co_name == "replace"
    if target.exists() and (target.is_dir() or not by_replace):
        raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists", str(target))
    if any(is_within(file, source) or is_within(file, target) for file in open_files()):
        raise PermissionError(errno.EACCES, "The process cannot access the file", str(source))


def open_files() -> list[str]:
    """Files that this process has open or mapped into memory."""
    folder = Path("/proc/self/fd")
    opened = [os.readlink(link) for link in folder.iterdir() if link.is_symlink()] if folder.exists() else []
    maps = Path("/proc/self/maps")
    lines = maps.read_text(encoding="utf-8").splitlines() if maps.exists() else []
    return opened + [line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6]


def is_within(file: str, path: Path) -> bool:
    return Path(file).is_relative_to(path.absolute())


for blocked in POSIX_MODULES & sys.modules.keys():
    del sys.modules[blocked]
sys.meta_path.insert(0, Blocker())
stand_in = types.ModuleType("msvcrt")
stand_in.locking, stand_in.LK_NBLCK, stand_in.LK_UNLCK = locking, 2, 0
sys.modules["msvcrt"] = stand_in
del signal.SIGHUP
sys.addaudithook(rename_as_on_windows)
