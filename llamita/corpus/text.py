"""Local files as a corpus: read as a stream, so that a file may be larger than the memory, or a single line.

Plain text is taken as it stands: newlines keep their form, and only a byte order mark and the newline after
`<|endoftext|>` are dropped. What one document is can be chosen: see `TextFiles`.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Literal

from llamita.corpus.documents import PIECE_SIZE, cut, first_documents, join_documents, one_document, split_documents
from llamita.corpus.files import SourceFile, find_files, open_file
from llamita.corpus.reading import decoded, json_texts, newlines_to_markers
from llamita.errors import UserError

DocumentKind = Literal["auto", "file", "line"]


class TextFiles:
    """The documents of UTF-8 text files (.txt and others) and JSON lines (.jsonl), each plain or gzip (.gz).

    Args:
        names: files, folders (all below them is read, but not behind links to folders) and patterns such as "a/*.txt";
            one or several.
        documents: what one document is. "auto": a line of JSON lines; in text, what stands between `<|endoftext|>`, or
            else the file. "file": the file. "line": a line, of text too.
        text_field: the field of JSON lines that holds the text.
        max_documents: only so many are read; 0: all.
        read_size: bytes read at once; a piece holds about as many characters at most.

    Raises:
        UserError: a name stands for no file, or for one that is not readable or empty. What only reading can tell
            (bytes that are not UTF-8, a line that is not JSON, a file of whitespace) is raised by `pieces`.
    """

    def __init__(
        self,
        names: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        documents: DocumentKind = "auto",
        text_field: str = "text",
        max_documents: int = 0,
        read_size: int = PIECE_SIZE,
    ):
        self.files = find_files([names] if isinstance(names, (str, os.PathLike)) else names)
        self.total_bytes = sum(file.path.stat().st_size for file in self.files)
        self._documents, self._text_field, self._max_documents = documents, text_field, max_documents
        self._read_size = read_size

    def pieces(self) -> Iterator[str]:
        """The documents as pieces, each document followed by END_OF_TEXT; see `Corpus.pieces`.

        Raises:
            UserError: a file is not what its name says, or was named and has nothing in it but whitespace and markers.
        """
        pieces = chain.from_iterable(map(self._pieces_of, self.files))
        return first_documents(pieces, self._max_documents) if self._max_documents else pieces

    def documents(self) -> Iterator[str]:
        """The documents in order, each as one string (and so in memory as a whole)."""
        return join_documents(self.pieces())

    def fingerprint(self) -> str:
        """sha256 in hex over the sha256 of each file's bytes and how they are read: names and places don't count."""
        digest = hashlib.sha256()
        for file in self.files:
            with open_file(file.path) as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
            digest.update(self._reading(file).encode())
        digest.update(f"{self._max_documents} documents".encode() if self._max_documents else b"")
        return digest.hexdigest()

    def describe(self) -> str:
        """The names and the size, for example `tale.txt (1.1 MB)`."""
        names = ", ".join(file.path.name for file in self.files[:3])
        more = f" and {len(self.files) - 3:,} more" if len(self.files) > 3 else ""
        limit = f", the first {self._max_documents:,} documents" if self._max_documents else ""
        return f"{names}{more} ({_readable(self.total_bytes)}{limit})"

    def _pieces_of(self, file: SourceFile) -> Iterator[str]:
        """The documents of one file as pieces."""
        spoken = False
        pieces = self._json_documents(file) if file.suffix == ".jsonl" else self._text_documents(file)
        for piece in one_document(pieces) if self._documents == "file" else pieces:
            spoken = True
            yield piece
        if file.named and not spoken:
            raise UserError(f"{file.path}: the file holds no text, only whitespace or end-of-text markers")

    def _text_documents(self, file: SourceFile) -> Iterator[str]:
        chunks = decoded(file, self._read_size)
        return split_documents(newlines_to_markers(chunks) if self._documents == "line" else chunks)

    def _json_documents(self, file: SourceFile) -> Iterator[str]:
        # Split one by one: a newline that begins a text is its own, not that of a marker before it.
        texts = json_texts(file, self._text_field)
        return chain.from_iterable(split_documents(cut(text)) for text in texts)

    def _reading(self, file: SourceFile) -> str:
        """What the documents of a file depend on besides its bytes; nothing for plain text as it stands."""
        how = "" if self._documents == "auto" else self._documents
        packed = "gzip" if file.compressed else ""
        return how + packed + (f"jsonl {self._text_field}" if file.suffix == ".jsonl" else "")


def _readable(size: int) -> str:
    """Bytes in the unit that suits them: small texts in KB, others in MB."""
    return f"{size / 1e3:,.1f} KB" if size < 100_000 else f"{size / 1e6:,.1f} MB"
