"""Local files as a corpus: read as a stream, so that a file may be larger than the memory, or a single line.

Plain text is taken as it is: newlines keep their form, and only a byte order mark and the lines `<|endoftext|>` are
dropped. What one document is can be chosen: see `TextFiles`.
"""

import codecs
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Literal

from llamita.corpus.digests import FileDigest
from llamita.corpus.documents import (
    PIECE_SIZE,
    Pieces,
    cut_at_marker_lines,
    first_documents,
    join_documents,
    one_document,
    whole_documents,
    without_blank,
)
from llamita.corpus.files import SourceFile, find_files
from llamita.corpus.parquet import parquet_texts
from llamita.corpus.reading import Encoding, Errors, NotTextError, cut_at_newlines, decoded, json_lines, json_texts
from llamita.corpus.readings import FileReading
from llamita.corpus.scanning import Skipped
from llamita.errors import UserError
from llamita.tokenizer import END_OF_TEXT

DocumentKind = Literal["auto", "file", "line"]
MOST_NAMED = 10  # files that are not text, in one message


class TextFiles:
    """The documents of text files (.txt and others), JSON lines (.jsonl, .ndjson), plain or gzip (.gz), and Parquet.

    Args:
        names: files, folders (with everything below them but what `scanning.py` skips) and patterns such as "a/*.txt";
            one or several.
        files: the files themselves, in place of their names.
        documents: what one document is. "auto": a line of JSON lines; in text, what is between lines `<|endoftext|>`,
            or else the file. "file": the file. "line": a line, of text too.
        text_field: the field of JSON lines, or the column of Parquet files, that holds the text.
        max_documents: only the first max_documents are read; 0: all.
        encoding: of the files, a name that Python's `codecs` knows. A file that begins with a byte order mark is UTF-8,
            UTF-16 or UTF-32 whatever this says.
        errors: what becomes of files that are not text in this encoding. "strict": they are refused, all in one
            message. "skip": they are left out. "replace": what is not text becomes U+FFFD.
        held_out: files for validation, which a folder or pattern in `names` does not add.
        read_size: bytes read at a time; a piece has at most about as many characters.

    Raises:
        UserError: a name stands for no file, or for one that is not readable or empty. What only reading can tell
            (bytes that are not text, a line that is not JSON, a file of whitespace) is raised by `pieces`.
    """

    def __init__(
        self,
        names: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = (),
        *,
        files: Sequence[SourceFile] = (),
        documents: DocumentKind = "auto",
        text_field: str = "text",
        max_documents: int = 0,
        encoding: str = "utf-8",
        errors: Errors = "strict",
        held_out: Iterable[SourceFile] = (),
        read_size: int = PIECE_SIZE,
    ):
        names = [names] if isinstance(names, (str, os.PathLike)) else names
        self.files, self._not_read = (list(files), Skipped()) if files else find_files(names, held_out)
        self._documents, self._text_field, self._max_documents = documents, text_field, max_documents
        self._encoding = Encoding(codecs.lookup(encoding).name, replace=errors == "replace")
        self._errors, self._read_size = errors, read_size
        self._skipped: dict[SourceFile, bool] = {}  # whether it is not text, for errors="skip"
        self._quotes_marker = False

    @property
    def size(self) -> int:
        """The bytes of the files."""
        return sum(file.size for file in self.files)

    @property
    def most_characters(self) -> int | None:
        """As many as there are bytes; None where some are compressed."""
        return None if any(file.compressed or file.holds_parquet for file in self.files) else self.size

    def pieces(self) -> Pieces:
        """The documents as pieces, each document followed by None; see `Corpus.pieces`.

        Raises:
            UserError: a file is not what its name says, or was named and has nothing in it but whitespace and markers.
        """
        return self._pieces(self.files)

    def read(self) -> FileReading:
        """Begin a reading, which has the fingerprint in the end without reading the files again."""
        return FileReading(self.files, self._pieces, self._fingerprint)

    def documents(self) -> Iterator[str]:
        """The documents in order, each as one string (and so in memory as a whole)."""
        return join_documents(self.pieces())

    def fingerprint(self) -> str:
        """sha256 in hex over the sha256 of each file's bytes and how they are read: names and places don't count."""
        return self._fingerprint(FileDigest(file.path).finish() for file in self.files)

    def describe(self) -> str:
        """The names and the size, for example `tale.txt (1.1 MB)`, without files that were skipped in reading."""
        read = [file for file in self.files if not self._skipped.get(file)]
        names = ", ".join(file.name for file in read[:3])
        more = f" and {len(read) - 3:,} more" if len(read) > 3 else ""
        limit = f", the first {self._max_documents:,} documents" if self._max_documents else ""
        return f"{names}{more} ({_readable(sum(file.size for file in read))}{limit})"

    def notes(self) -> list[str]:
        """What the user should know about what was read; some of it is known only after `pieces` was read."""
        notes = []
        if self._not_read:
            notes.append(f"note: files read: {len(self.files):,}; skipped: {self._not_read} (name a file to read it)")
        if skipped := [file for file, is_skipped in self._skipped.items() if is_skipped]:
            notes.append(f"note: not {self._encoding.name.upper()} text, and skipped: {_names(skipped)}")
        if self._quotes_marker:
            notes.append(f"note: {END_OF_TEXT} within a line is ordinary text; only a line of its own ends a document")
        return notes

    def _pieces(self, files: list[SourceFile]) -> Pieces:
        pieces = chain.from_iterable(map(self._pieces_of, files))
        yield from first_documents(pieces, self._max_documents) if self._max_documents else pieces

    def _fingerprint(self, digests: Iterable[bytes]) -> str:
        """That of the files with these digests."""
        digest = hashlib.sha256()
        for file, of_file in zip(self.files, digests, strict=True):
            digest.update(of_file + self._reading(file).encode())
        digest.update(f"{self._max_documents} documents".encode() if self._max_documents else b"")
        return digest.hexdigest()

    def _pieces_of(self, file: SourceFile) -> Pieces:
        """The documents of one file as pieces."""
        if self._errors == "skip" and self._is_skipped(file):
            return
        has_text = False
        try:
            for piece in self._documents_of(file):
                has_text = True
                yield piece
        except NotTextError as error:
            raise self._refusal(file, error) from error
        if file.named and not has_text:
            raise UserError(f"{file.shown}: the file holds no text, only whitespace or end-of-text markers")

    def _documents_of(self, file: SourceFile) -> Pieces:
        if file.holds_json_lines:
            pieces = whole_documents(json_texts(file, self._encoding, self._text_field))
        elif file.holds_parquet:
            pieces = whole_documents(parquet_texts(file, self._text_field))
        else:
            pieces = self._watched(cut_at_marker_lines(decoded(file, self._encoding, self._read_size)))
            pieces = without_blank(cut_at_newlines(pieces) if self._documents == "line" else pieces)
        return one_document(pieces) if self._documents == "file" else pieces

    def _watched(self, pieces: Pieces) -> Pieces:
        """The pieces as they are; remembers whether one has a marker in it, which may be a mistake."""
        for piece in pieces:
            self._quotes_marker = self._quotes_marker or (piece is not None and END_OF_TEXT in piece)
            yield piece

    def _is_skipped(self, file: SourceFile) -> bool:
        """Whether a file is not text in its encoding; it is read once to know that."""
        if file not in self._skipped:
            self._skipped[file] = self._defect(file) is not None
            if len(self._skipped) == len(self.files) and all(self._skipped.values()):
                raise UserError(
                    f"no file is {self._encoding.name.upper()} text: {_names(self.files)}; give their --encoding"
                )
        return self._skipped[file]

    def _defect(self, file: SourceFile) -> NotTextError | None:
        """What is not text in a file; None where all of it is, or where it is no text file."""
        if file.holds_parquet:
            return None
        lines = file.holds_json_lines
        text = json_lines(file, self._encoding) if lines else decoded(file, self._encoding, self._read_size)
        try:
            for _ in text:
                pass
        except NotTextError as error:
            return error
        return None

    def _refusal(self, file: SourceFile, error: NotTextError) -> UserError:
        """The error for a file that is not text, which names all the others that are not, either."""
        later = self.files[self.files.index(file) + 1 :]
        others = [other for other in later if other.is_local and self._defect(other)]
        place = f", {error.place}" if error.place else ""
        also = f", and neither {'is' if len(others) == 1 else 'are'} {_names(others)}" if others else ""
        return UserError(
            f"{file.shown}{place}: {error.reason}{also}; convert to UTF-8, or give --encoding (such as latin-1), "
            "--errors skip or --errors replace"
        )

    def _reading(self, file: SourceFile) -> str:
        """What the documents of a file depend on besides its bytes; nothing for plain UTF-8 text as it is."""
        how = "" if self._documents == "auto" else self._documents
        packed = "gzip" if file.compressed else ""
        text = "" if self._encoding.name == "utf-8" else f" {self._encoding.name}"
        errors = "" if self._errors == "strict" else f" {self._errors}"
        rows = "jsonl" if file.holds_json_lines else "parquet" if file.holds_parquet else ""
        return how + packed + (f"{rows} {self._text_field}" if rows else "") + text + errors


def _names(files: list[SourceFile]) -> str:
    """The paths of a few files, and how many more there are."""
    more = len(files) - MOST_NAMED
    return ", ".join(file.shown for file in files[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _readable(size: int) -> str:
    """Bytes in the unit that suits them: small texts in KB, others in MB."""
    return f"{size / 1e3:,.1f} KB" if size < 100_000 else f"{size / 1e6:,.1f} MB"
