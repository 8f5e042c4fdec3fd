"""From what the user names (files, folders, patterns) to the files to read; and their bytes, gzip or not."""

import gzip
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from glob import has_magic
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

from llamita.corpus.digests import FileDigest, shown, unreadable
from llamita.corpus.scanning import Skipped, expand_pattern, scan_folder
from llamita.errors import UserError

TEXT_SUFFIXES = (".txt", ".md", ".jsonl", ".ndjson")
"""The endings of what is read from a folder, each also with .gz. A file that is named may have any other ending, and is
read as text."""
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"
NOT_FOR_READING = ("readme", "license")
"""What the names of .md files begin with that are about a folder, not part of its text."""

_NOT_TEXT = {
    **dict.fromkeys((".json", ".csv", ".tsv", ".arrow"), "convert it to JSON lines (.jsonl)"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".7z"), "unpack it, or compress it with gzip"),
    ".bin": "name the folder of prepared tokens that it is in",
    **dict.fromkeys((".pdf", ".doc", ".docx", ".odt", ".epub"), "save its text as .txt"),
}
"""Formats that would be taken for text, or refused with a word about bytes: ending -> what to do."""


@dataclass(frozen=True)
class SourceFile:
    """A file to read, and whether the user named it, rather than a folder that it is in or a pattern.

    digest: computed while the file is read; None: no digest is needed.
    """

    path: Path
    named: bool
    size: int = 0
    digest: FileDigest | None = field(default=None, compare=False, kw_only=True)

    @property
    def compressed(self) -> bool:
        """Whether its bytes are gzip's."""
        return self.path.suffix.lower() == ".gz"

    @property
    def suffix(self) -> str:
        """The ending that says what is in it, such as .jsonl, also where that is compressed."""
        return (self.path.with_suffix("") if self.compressed else self.path).suffix.lower()

    @property
    def holds_json_lines(self) -> bool:
        """Whether each line is a JSON object."""
        return self.suffix in JSON_LINES

    @property
    def holds_parquet(self) -> bool:
        """Whether it is a table in the format Parquet."""
        return self.suffix == PARQUET

    @property
    def is_local(self) -> bool:
        """Whether reading all of it is cheap."""
        return True

    def open_bytes(self) -> BinaryIO:
        """Open its bytes as they are, or a UserError that says why not."""
        return open_file(self.path, self.digest)

    @property
    def shown(self) -> str:
        """Its path, to print."""
        return shown(self.path)

    @property
    def name(self) -> str:
        """Its name without the folder, to print."""
        return shown(Path(self.path.name))


def find_files(
    names: Iterable[str | os.PathLike[str]], held_out: Iterable[SourceFile] = ()
) -> tuple[list[SourceFile], Skipped]:
    """The files that `names` mean, each once: a file; a folder, with everything below it; a pattern such as a/*.txt.

    In the order of the names; within a folder or a pattern, sorted. What a folder or pattern has besides is counted by
    kind, see `scanning.py`; so are the files `held_out` for validation. Raises UserError for a name that stands for
    nothing that can be read.
    """
    found: dict[tuple[int, int], SourceFile] = {}
    skipped, outputs = Skipped(), _outputs()
    validation = {_identity(file.path.stat()) for file in held_out}
    for name in names:
        if name == "":  # as of a shell variable that isn't set; as a path, it would be the current folder
            raise UserError("an empty name stands for no text; give a file, a folder or a pattern")
        for file, identity in _files(Path(name), skipped):
            if identity in outputs and not file.named:
                skipped.count("output of this command")
            elif identity in validation and not file.named:
                skipped.count("validation file")
            else:
                found.setdefault(identity, file)
    if not found:
        raise UserError(f"no text file was given{f', only {skipped}' if skipped else ''}")
    return list(found.values()), skipped


def short_name(name: str) -> str:
    """What to call the text of a file, folder or pattern, in the name of a directory: data/tale.txt.gz -> tale."""
    parts = [part for part in Path(name).parts if not has_magic(part)]
    return Path(parts[-1].removesuffix(".gz")).stem if parts else "text"


@contextmanager
def open_unpacked(file: SourceFile) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked. Raises UserError where they can't be read, also while they are read."""
    try:
        with file.open_bytes() as raw:
            yield cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if file.compressed else raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{file.shown}: broken gzip file ({error}); fetch or compress it again") from error
    except OSError as error:
        raise unreadable(file.path, error) from error


def open_file(path: Path, digest: FileDigest | None = None) -> BufferedReader:
    """Open for reading, or a UserError that says why not."""
    try:
        return path.open("rb") if digest is None else digest.open_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


Found = tuple[SourceFile, tuple[int, int]]
"""A file, and what is the same for two names of one file: device and inode."""


def _files(name: Path, skipped: Skipped) -> Iterator[Found]:
    """The files of one name. What exists is meant as it is, even where it looks like a pattern."""
    if os.path.isdir(name):  # not `Path.is_dir`, which raises for a name that is too long
        left_out = Skipped()
        texts = _texts_in(name, left_out)
        if not texts:
            others = f"only {left_out}" if left_out else "it is empty"
            needed = ", ".join(TEXT_SUFFIXES)
            raise UserError(f"{shown(name)}: no text in this folder, {others}; it needs files {needed}")
        skipped.add(left_out)
        yield from (_checked(path, named=False) for path in texts)
    elif os.path.exists(name) or not has_magic(str(name)):
        yield _checked(name, named=True)
    else:
        yield from _files_of_pattern(name, skipped)


def _files_of_pattern(pattern: Path, skipped: Skipped) -> Iterator[Found]:
    """The files that a pattern matches, and the text files below the folders that it matches."""
    try:
        matches = expand_pattern(pattern, skipped)
    except OSError as error:
        raise unreadable(pattern, error) from error
    paths = [file for path in matches for file in (_texts_in(path, skipped) if os.path.isdir(path) else [path])]
    if not paths:
        others = f"; skipped: {skipped}" if skipped else ""
        raise UserError(f"{shown(pattern)}: no file matches this pattern; check it{others}")
    yield from (_checked(path, named=False) for path in paths)


def _texts_in(folder: Path, skipped: Skipped) -> list[Path]:
    """The text files anywhere below a folder."""
    if os.path.exists(folder / "train.bin"):
        raise UserError(
            f"{shown(folder)}: holds prepared tokens, which can't be mixed with text; give it alone as --data"
        )
    try:
        return scan_folder(folder, skipped, lambda name: _is_text(name, skipped))
    except OSError as error:
        raise unreadable(folder, error) from error


def _is_text(name: str, skipped: Skipped) -> bool:
    """Whether a file with this name in a folder is read; otherwise it is counted."""
    name = name.lower().removesuffix(".gz")
    suffix = os.path.splitext(name)[1]
    if suffix not in TEXT_SUFFIXES:
        skipped.count_file(suffix if suffix.isascii() and suffix.isprintable() and len(suffix) <= 10 else "")
        return False
    if suffix == ".md" and name.startswith(NOT_FOR_READING):
        skipped.count("README or LICENSE file")
        return False
    return True


def _outputs() -> set[tuple[int, int]]:
    """The files that standard output and error go to: as of `llamita train --data . > log.txt`, they are no text."""
    outputs: set[tuple[int, int]] = set()
    for descriptor in (1, 2):
        with suppress(OSError):  # closed
            outputs.add(_identity(os.fstat(descriptor)))
    return outputs


def _checked(path: Path, named: bool) -> Found:
    """The file; a mistake that shows without reading it is a UserError."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"{shown(path)}: no such file; check the path") from error
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(
            f"{shown(path)}: not a regular file; llamita reads a file more than once, so save the text to one"
        )
    file = SourceFile(path, named, status.st_size)
    if what_to_do := _NOT_TEXT.get(file.suffix):
        raise UserError(f"{file.shown}: {file.suffix} files are not read, only text and JSON lines; {what_to_do}")
    with open_file(path):
        pass
    if status.st_size == 0 and named:
        raise UserError(f"{file.shown}: the file is empty; there is no text to read")
    return file, _identity(status)


def _identity(status: os.stat_result) -> tuple[int, int]:
    """What is the same for all names of a file."""
    return status.st_dev, status.st_ino
