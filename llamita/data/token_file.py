"""Token files: the ids of a text one after another, as plain little-endian integers, mapped into memory when read.

`train.bin` holds the ids, `train.documents.bin` the offsets (int64, one more than there are documents) at which the
documents begin and the last one ends, and `manifest.json` beside them what they should be.
"""

import hashlib
import os
import sys
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import BinaryIO

import numpy as np

from llamita.data.manifest import Manifest, Part, how_to_repair
from llamita.errors import UserError
from llamita.tokenizer import Tokenizer, token_dtype
from llamita.tokenizer.batches import Encoded

_OFFSET = np.dtype("<i8")  # signed: numpy makes floats of uint64 added to int64
BLOCK = 1 << 16
"""Tokens that are read again at a time."""
KEEP_EVERY = 1 << 22
"""Tokens between two counts that are kept, to return to."""


class TokenFile:
    """The ids of one part (`train.bin` or `val.bin`) of a prepared corpus, mapped into memory.

    Args:
        path: the `.bin` file; its manifest is in the same folder.
        tokenizer_fingerprint: when given, the tokenizer that must have made the file.

    Attributes:
        ids: (tokens,) uint16, or uint32 where the vocabulary needs it.
        document_starts, document_ends: (documents,) int64, offsets into `ids`; the end token belongs to its document.
        part: the counts of this file, such as `part.bytes` for bits per byte.
        manifest: the complete manifest.

    Raises:
        UserError: a file is missing, its size is not the manifest's, or another tokenizer made it.
    """

    def __init__(self, path: str | os.PathLike[str], tokenizer_fingerprint: str | None = None):
        self.path = Path(path)
        self.manifest = Manifest.read(self.path.parent)
        self.part = self._part()
        self.end_id = self.manifest.end_id
        if tokenizer_fingerprint not in (None, self.manifest.tokenizer_fingerprint):
            raise UserError(
                f"{self.path}: its tokens were made by another tokenizer; "
                "use that one, or prepare the text again with this one"
            )
        self.ids = self._map(self.path, np.dtype(self.part.dtype).newbyteorder("<"), self.part.tokens)
        offsets = self._map(documents_path(self.path), _OFFSET, self.part.documents + 1)
        self.document_starts, self.document_ends = offsets[:-1], offsets[1:]

    def __len__(self) -> int:
        """The number of tokens."""
        return self.part.tokens

    def verify(self) -> None:
        """Read both files completely and compare their sha256 with the manifest; a UserError if one differs."""
        for path, expected in (
            (self.path, self.part.sha256),
            (documents_path(self.path), self.part.documents_sha256),
        ):
            with path.open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
            if actual != expected:
                raise UserError(f"{path}: damaged, its sha256 is not the manifest's; {how_to_repair(path.parent)}")

    def _part(self) -> Part:
        part = self.manifest.parts.get(self.path.stem)
        if part is None:
            raise UserError(f"{self.path}: not a token file in the manifest of its folder")
        if part.dtype != token_dtype(self.manifest.vocab_size).name or part.largest_id >= self.manifest.vocab_size:
            raise UserError(
                f"{self.path}: damaged manifest, {part.dtype} ids up to {part.largest_id} do not fit a vocabulary of "
                f"{self.manifest.vocab_size}; {how_to_repair(self.path.parent)}"
            )
        return part

    def _map(self, path: Path, dtype: np.dtype, count: int) -> np.ndarray:
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            raise UserError(f"{path}: no such file; {how_to_repair(path.parent)}")
        if size != count * dtype.itemsize:
            raise UserError(
                f"{path}: damaged, it has {size:,} bytes instead of {count * dtype.itemsize:,}; "
                f"{how_to_repair(path.parent)}"
            )
        return np.memmap(path, dtype, mode="r")


class TokenWriter:
    """Writes a token file in constant memory, counting and hashing as it goes.

    It takes at most `limit` tokens; what comes after that is left out.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, limit: int = sys.maxsize):
        self._path, self._tokenizer, self._limit = path, tokenizer, limit
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._ids: BinaryIO = path.open("x+b")
        self._offsets: BinaryIO = documents_path(path).open("x+b")
        self._offsets.write(np.zeros(1, _OFFSET).tobytes())
        self._counts = Counts(np.asarray(tokenizer.byte_lengths, dtype=np.int64))
        self._earlier = [self._counts.copy()]
        self._documents = self._ended = 0  # how many have ended, and where the last one did

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(self, *error: object) -> None:
        with self._ids, self._offsets:  # closes both, also where a full disk refuses the first
            pass

    def write(self, encoded: Encoded) -> None:
        """Append ids, and the ends of documents among them."""
        begun = self._counts.tokens
        self._append(encoded.ids[: self._limit - begun])
        ends = begun + encoded.ends
        begins = np.concatenate(([self._ended], ends))[:-1]
        self._end_documents(np.minimum(ends[begins < self._limit], self._limit))

    def needed(self) -> int:
        """How many more tokens it takes."""
        return self._limit - self._counts.tokens

    @property
    def is_empty(self) -> bool:
        """Whether nothing was written."""
        return self._counts.tokens == 0

    @property
    def documents(self) -> int:
        """How many documents have ended."""
        return self._documents

    def move_documents(self, first: int, other: "TokenWriter") -> None:
        """Cut off the documents from number `first` on, and append them to `other`."""
        self._flush()
        offsets = np.fromfile(documents_path(self._path), _OFFSET, offset=first * _OFFSET.itemsize)
        begin, ends = int(offsets[0]), offsets[1:]
        for start, ids in self._blocks(begin, self._counts.tokens):
            ended = ends[slice(*np.searchsorted(ends, (start, start + len(ids)), side="right"))]
            other.write(Encoded(ids, ended - start))
        self._truncate(first, begin)

    def finish(self) -> Part:
        """Flush both files -> what was written. A document that the limit has cut off ends here."""
        if self._counts.tokens > self._ended:
            self._end_documents(np.array([self._counts.tokens]))
        self._flush()
        with documents_path(self._path).open("rb") as offsets:
            documents_sha256 = hashlib.file_digest(offsets, "sha256").hexdigest()
        return Part(
            size=self._counts.tokens * self._dtype.itemsize,
            sha256=self._counts.digest.hexdigest(),
            documents_sha256=documents_sha256,
            dtype=self._dtype.name,
            tokens=self._counts.tokens,
            bytes=self._counts.bytes,
            documents=self._documents,
            largest_id=self._counts.largest_id,
        )

    def _append(self, ids: np.ndarray) -> None:
        ids = ids.astype(self._dtype, copy=False)
        self._ids.write(ids.tobytes())
        self._counts.add(ids)
        if self._counts.tokens - self._earlier[-1].tokens >= KEEP_EVERY:
            self._earlier.append(self._counts.copy())

    def _end_documents(self, ends: np.ndarray) -> None:
        if len(ends):
            self._offsets.write(ends.astype(_OFFSET).tobytes())
            self._documents += len(ends)
            self._ended = int(ends[-1])

    def _truncate(self, documents: int, tokens: int) -> None:
        """Drop what was written after the first `documents`; what remains is counted from a point shortly before."""
        self._ids.truncate(tokens * self._dtype.itemsize)
        self._offsets.truncate((documents + 1) * _OFFSET.itemsize)
        self._documents, self._ended = documents, tokens
        self._counts = [counts for counts in self._earlier if counts.tokens <= tokens][-1]
        for _, ids in self._blocks(self._counts.tokens, tokens):
            self._counts.add(ids)

    def _blocks(self, start: int, end: int) -> Iterator[tuple[int, np.ndarray]]:
        """What was written, as (position, ids)."""
        size = self._dtype.itemsize
        for at in range(start, end, BLOCK):
            yield at, np.fromfile(self._path, self._dtype, min(BLOCK, end - at), offset=at * size)

    def _flush(self) -> None:
        self._ids.flush()
        self._offsets.flush()


class Counts:
    """What a `Part` says about its ids, kept while they are written."""

    def __init__(self, byte_lengths: np.ndarray):
        self._byte_lengths = byte_lengths
        self.digest = hashlib.sha256()
        self.tokens = self.bytes = self.largest_id = 0

    def add(self, ids: np.ndarray) -> None:
        """Count some more ids."""
        self.digest.update(ids.tobytes())
        self.tokens += ids.size
        self.bytes += int(self._byte_lengths[ids].sum())
        self.largest_id = max(self.largest_id, int(ids.max(initial=0)))

    def copy(self) -> "Counts":
        """The counts as they are now."""
        same = copy(self)
        same.digest = self.digest.copy()
        return same


def documents_path(path: Path) -> Path:
    """`train.bin` -> `train.documents.bin`, where the documents of the token file begin."""
    return path.with_name(f"{path.stem}.documents.bin")
