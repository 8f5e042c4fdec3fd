"""Atomic file writes: a file is complete, or as it was before, whatever happens."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamita.errors import UserError


def write_atomically(file: Path, content: bytes) -> None:
    """Write a temporary file in the same folder, force it to disk, and rename it.

    A process that is killed leaves the hidden temporary file; `remove_left_overs` deletes it. Raises `UserError`
    where the disk is full or not to be written on.
    """
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(file)
    except OSError as error:
        raise UserError(f"{file}: could not be written ({error.strerror}); the file is as it was before") from None
    finally:
        beside.unlink(missing_ok=True)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as indented JSON, atomically. Raises `UserError` as `write_atomically` does."""
    write_atomically(file, (json.dumps(content, indent=2) + "\n").encode())


def remove_left_overs(file: Path) -> None:
    """Delete the temporary files of killed processes. Call it only while no other process writes `file`."""
    for beside in file.parent.glob(f".{file.name}.*.tmp"):
        beside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Force a file or folder to disk, to survive a power failure. Does nothing on Windows, which opens no folders."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def default_cache() -> Path:
    """The folder for what can be computed or downloaded again: $LLAMITA_CACHE, else ~/.cache/llamita."""
    folder = os.environ.get("LLAMITA_CACHE")
    return Path(folder) if folder else Path.home() / ".cache" / "llamita"
