"""Local text files as a corpus: read as a stream, so that a file may be larger than the memory, or a single line.

A file holds one document, or several with `<|endoftext|>` between them. The text is taken as it stands: newlines keep
their form, and only a byte order mark and the newline after a marker are dropped.
"""

import codecs
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from pathlib import Path

from llamita.corpus.documents import PIECE_SIZE, join_documents, split_documents
from llamita.errors import UserError


class TextFiles:
    """The documents of one or more UTF-8 text files, in the order of the paths.

    Args:
        paths: one path or several.
        read_size: bytes read at once; a piece holds about as many characters at most.
        progress: called with the bytes read so far whenever more are read by `pieces` or `documents`.

    Raises:
        UserError: a file is missing, a folder, not readable or empty. What only reading can tell (bytes that are not
            UTF-8, a file of whitespace) is raised by `pieces`.
    """

    def __init__(
        self,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        read_size: int = PIECE_SIZE,
        progress: Callable[[int], None] | None = None,
    ):
        self.paths = [Path(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
        if not self.paths:
            raise UserError("no text file was given")
        self.total_bytes = sum(_checked_size(path) for path in self.paths)
        self._read_size = read_size
        self._progress = progress or (lambda bytes_read: None)

    def pieces(self) -> Iterator[str]:
        """The documents as pieces, each document followed by END_OF_TEXT; see `Corpus.pieces`.

        Raises:
            UserError: a file is not UTF-8 text, or has nothing in it but whitespace and markers.
        """
        bytes_before = 0
        for path in self.paths:
            spoken = False
            for piece in split_documents(self._decoded(path, bytes_before)):
                spoken = True
                yield piece
            if not spoken:
                raise UserError(f"{path}: the file holds no text, only whitespace or end-of-text markers")
            bytes_before += path.stat().st_size

    def documents(self) -> Iterator[str]:
        """The documents in order, each as one string (and so in memory as a whole)."""
        return join_documents(self.pieces())

    def fingerprint(self) -> str:
        """sha256 over the sha256 of each file's bytes, in hex: names and places of the files do not count."""
        digest = hashlib.sha256()
        for path in self.paths:
            with _open(path) as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def describe(self) -> str:
        """The names and the size, for example `tale.txt (1.1 MB)`."""
        names = ", ".join(path.name for path in self.paths[:3])
        more = f" and {len(self.paths) - 3:,} more" if len(self.paths) > 3 else ""
        return f"{names}{more} ({self.total_bytes / 1e6:,.1f} MB)"

    def _decoded(self, path: Path, bytes_before: int) -> Iterator[str]:
        """The text of a file, `read_size` bytes at a time. Not text mode, which cannot name the byte that is wrong."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        with _open(path) as file:
            if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
                file.seek(0)
            while chunk := file.read(self._read_size):
                _refuse_binary(path, chunk, file.tell())
                yield _decode(path, decoder, chunk, file.tell())
                self._progress(bytes_before + file.tell())
            _decode(path, decoder, b"", file.tell())  # refuses a character that the file's end cuts off


def _checked_size(path: Path) -> int:
    """The size of a file in bytes; a mistake that shows without reading the file is a UserError."""
    if not path.exists():
        raise UserError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name the text files in it")
    if not path.is_file():
        raise UserError(f"{path}: not a regular file; llamita reads a file more than once, so save the text to one")
    with _open(path):
        size = path.stat().st_size
    if size == 0:
        raise UserError(f"{path}: the file is empty; there is no text to read")
    return size


def _open(path: Path) -> BufferedReader:
    """Open for reading, or a UserError that says why not."""
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error


def _refuse_binary(path: Path, chunk: bytes, end: int) -> None:
    """A NUL byte is valid UTF-8 but never text; `end` is the file offset behind the chunk."""
    if (at := chunk.find(0)) >= 0:
        offset = end - len(chunk) + at
        raise UserError(f"{path}: not a text file: NUL byte at byte {offset:,}; llamita reads UTF-8 text (not UTF-16)")


def _decode(path: Path, decoder: codecs.IncrementalDecoder, chunk: bytes, end: int) -> str:
    """UTF-8 to text; an empty chunk is the end of the file. `end` is the file offset behind the chunk."""
    try:
        return decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:
        # error.object is the chunk, after what the decoder had kept of the one before.
        offset = end - len(error.object) + error.start
        wrong = error.object[error.start]
        raise UserError(
            f"{path}: not UTF-8 text: byte 0x{wrong:02x} at byte {offset:,}; convert the file to UTF-8"
        ) from error
