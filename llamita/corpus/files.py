"""From what a person names (files, folders, patterns) to the files to read; and their bytes, gzip or not."""

import gzip
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob, has_magic
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

from llamita.errors import UserError

TEXT_SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
"""The endings of what is read from a folder. A file that is named may have another ending, and is read as text."""

_NOT_TEXT = {
    **dict.fromkeys((".json", ".csv", ".tsv", ".parquet", ".arrow"), "convert it to JSON lines (.jsonl)"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".7z"), "unpack it, or compress it with gzip"),
    ".bin": "name the folder of prepared tokens that it lies in",
    **dict.fromkeys((".pdf", ".doc", ".docx", ".odt", ".epub"), "save its text as .txt"),
}
"""Formats that would be taken for text, or refused with a word about bytes: ending -> what to do."""


@dataclass(frozen=True)
class SourceFile:
    """A file to read, and whether a person named it, rather than a folder that it lies in or a pattern."""

    path: Path
    named: bool

    @property
    def compressed(self) -> bool:
        """Whether its bytes are gzip's."""
        return self.path.suffix.lower() == ".gz"

    @property
    def suffix(self) -> str:
        """The ending that says what is in it, such as .jsonl, also where that is compressed."""
        return (self.path.with_suffix("") if self.compressed else self.path).suffix.lower()


def find_files(names: Iterable[str | os.PathLike[str]]) -> list[SourceFile]:
    """The files that `names` stand for, each once: a file; a folder, with all below it; a pattern such as a/*.txt.

    In the order of the names; within a folder or a pattern, sorted. Hidden files are not looked for.
    Raises UserError for a name that stands for nothing that can be read.
    """
    found: dict[Path, SourceFile] = {}
    for name in names:
        if name == "":  # as of a shell variable that isn't set; as a path, it would be the folder that one is in
            raise UserError("an empty name stands for no text; give a file, a folder or a pattern")
        for file in _files(Path(name)):
            found.setdefault(file.path.resolve(), file)
    if not found:
        raise UserError("no text file was given")
    return list(found.values())


def short_name(name: str) -> str:
    """What to call the text of a file, folder or pattern, in the name of a directory: data/tale.txt.gz -> tale."""
    parts = [part for part in Path(name).parts if not has_magic(part)]
    return Path(parts[-1].removesuffix(".gz")).stem if parts else "text"


@contextmanager
def open_unpacked(file: SourceFile) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked. Raises UserError where they can't be read, also while they are read."""
    try:
        with open_file(file.path) as raw:
            yield cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if file.compressed else raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{file.path}: broken gzip file ({error}); fetch or compress it again") from error
    except OSError as error:
        raise _unreadable(file.path, error) from error


def open_file(path: Path) -> BufferedReader:
    """Open for reading, or a UserError that says why not."""
    try:
        return path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions")


def _files(name: Path) -> list[SourceFile]:
    """The files of one name. What exists is meant as it is, also where it looks like a pattern."""
    if name.is_dir():
        return _files_in(name)
    if name.exists() or not has_magic(str(name)):
        return [_checked(SourceFile(name, named=True))]
    matches = [
        Path(match) for match in sorted(glob(str(name), recursive=True)) if os.path.exists(match)
    ]  # no dead link
    if not matches:
        raise UserError(f"{name}: no file matches this pattern; check it")
    below = [_files_in(match) if match.is_dir() else [SourceFile(match, named=False)] for match in matches]
    return [_checked(file) for files in below for file in files]


def _files_in(folder: Path) -> list[SourceFile]:
    """The text files anywhere below a folder."""
    if (folder / "train.bin").exists():
        raise UserError(f"{folder}: holds prepared tokens, which can't be mixed with text; give it alone as --data")
    try:
        inside = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    except OSError as error:
        raise _unreadable(folder, error) from error
    visible = [path for path in inside if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    texts = [path for path in visible if path.name.lower().endswith(TEXT_SUFFIXES)]
    if not texts:
        others = f"only others, such as {visible[0].name}" if visible else "it is empty"
        raise UserError(f"{folder}: no text in this folder, {others}; it needs files {', '.join(TEXT_SUFFIXES)}")
    return [_checked(SourceFile(path, named=False)) for path in texts]


def _checked(file: SourceFile) -> SourceFile:
    """The file; a mistake that shows without reading it is a UserError."""
    path = file.path
    if not path.exists():
        raise UserError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise UserError(f"{path}: not a regular file; llamita reads a file more than once, so save the text to one")
    if what_to_do := _NOT_TEXT.get(file.suffix):
        raise UserError(f"{path}: {file.suffix} files are not read, only text and JSON lines; {what_to_do}")
    with open_file(path):
        size = path.stat().st_size
    if size == 0 and file.named:
        raise UserError(f"{path}: the file is empty; there is no text to read")
    return file
