"""A folder of token files appears complete or not at all."""

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llamita.data.manifest import MANIFEST_NAME, Manifest
from llamita.errors import UserError
from llamita.files import sync

PARTIAL = ".llamita.partial-"
_ABANDONED_AFTER = 24 * 3600.0  # seconds without a write after which a partial folder counts as abandoned


def require_same(folder: Path, identity: str) -> None:
    """Raise `UserError` unless a folder that the user named is empty, or has exactly what is to be written there."""
    if (folder / MANIFEST_NAME).exists():
        if Manifest.read(folder).identity != identity:
            raise UserError(f"{folder}: holds tokens of other text or another tokenizer; choose another --output_dir")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is not an empty folder; choose another --output_dir")


@contextmanager
def partial_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent` to write into, for `publish`; it is gone when the block ends.

    A process that is killed leaves the folder, which is never read. Where the block fails, `parent` is as it was, or
    absent if it was. Raises `UserError` where it cannot be written.
    """
    partial = parent / f"{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}"
    absent = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    try:
        _remove_abandoned(parent)
        partial.mkdir(parents=True)
        yield partial
    except OSError as error:
        raise UserError(
            f"{parent}: the token files cannot be written ({error.strerror}); free some space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):  # something is in there now
            for folder in absent:
                folder.rmdir()


def publish(partial: Path, folder: Path) -> None:
    """Give a complete folder its name, unless another process has prepared the same text meanwhile."""
    for path in (*partial.iterdir(), partial):
        sync(path)
    with suppress(OSError):
        folder.rmdir()  # an empty folder that the user made: Windows does not rename over it
    try:
        partial.rename(folder)
    except OSError:
        if not (folder / MANIFEST_NAME).exists():
            raise
    sync(folder.parent)


def _remove_abandoned(parent: Path) -> None:
    """Delete what killed processes left."""
    for partial in parent.glob(f"{PARTIAL}*"):
        with suppress(FileNotFoundError):  # another process is renaming or deleting it
            written = max(path.stat().st_mtime for path in (partial, *partial.iterdir()))
            if time.time() - written > _ABANDONED_AFTER:
                shutil.rmtree(partial, ignore_errors=True)
