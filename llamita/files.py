"""Files that are complete or as they were before, whatever happens meanwhile."""

import os
from pathlib import Path

from llamita.errors import UserError


def write_atomically(file: Path, content: bytes) -> None:
    """The file is complete or as it was before: written beside, forced to disk, renamed.

    A process killed meanwhile leaves a hidden file beside it; `remove_left_overs` deletes that. Raises `UserError`
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
        raise UserError(f"{file}: could not be written ({error.strerror}); nothing that was there is lost") from None
    finally:
        beside.unlink(missing_ok=True)


def remove_left_overs(file: Path) -> None:
    """Delete what killed processes left of writing `file`. Only for who knows that nobody writes it now."""
    for beside in file.parent.glob(f".{file.name}.*.tmp"):
        beside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make what is written outlive a power cut; a folder too, which Windows cannot open."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def default_cache() -> Path:
    """Where what can be made or fetched again is kept: $LLAMITA_CACHE, else ~/.cache/llamita."""
    folder = os.environ.get("LLAMITA_CACHE")
    return Path(folder) if folder else Path.home() / ".cache" / "llamita"
