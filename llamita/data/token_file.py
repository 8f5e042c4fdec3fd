"""Token files: the ids of a text one after another, as plain little-endian integers, mapped into memory when read.

`train.bin` holds the ids, `train.documents.bin` the offsets (int64, one more than there are documents) at which the
documents begin and the last one ends, and `manifest.json` beside them what they should be.
"""

import hashlib
import os
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

from llamita.data.manifest import Manifest, Part, how_to_repair
from llamita.errors import UserError
from llamita.tokenizer import Tokenizer, token_dtype

_OFFSET = np.dtype("<i8")  # signed: numpy makes floats of uint64 added to int64


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
    """Writes a token file document by document, in constant memory, counting and hashing as it goes.

    It takes at most `limit` tokens; what a document has beyond that is left out.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, limit: int = sys.maxsize):
        self._tokenizer = tokenizer
        self._byte_lengths = np.asarray(tokenizer.byte_lengths, dtype=np.int64)
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._ids = _HashingFile(path)
        self._offsets = _HashingFile(documents_path(path))
        self._offsets.write(np.zeros(1, _OFFSET))
        self._limit = limit
        self._tokens = self._bytes = self._documents = self._largest_id = 0

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(self, *error: object) -> None:
        with self._ids.file, self._offsets.file:  # closes both, also where a full disk refuses the first
            pass

    def write_document(self, pieces: Iterator[str]) -> None:
        """Encode and write one document, and after it the end token if the tokenizer has one."""
        end = [] if self._tokenizer.end_id is None else [self._tokenizer.end_id]
        for block in chain(self._tokenizer.encode_document(pieces), [np.array(end, self._dtype)]):
            self._write(block[: self._limit - self._tokens].astype(self._dtype))
        self._documents += 1
        self._offsets.write(np.array([self._tokens], _OFFSET))

    @property
    def full(self) -> bool:
        """Whether it has all the tokens that it takes."""
        return self._tokens >= self._limit

    def finish(self) -> Part:
        """Flush both files -> what was written."""
        return Part(
            size=self._tokens * self._dtype.itemsize,
            sha256=self._ids.finish(),
            documents_sha256=self._offsets.finish(),
            dtype=self._dtype.name,
            tokens=self._tokens,
            bytes=self._bytes,
            documents=self._documents,
            largest_id=self._largest_id,
        )

    def _write(self, ids: np.ndarray) -> None:
        self._ids.write(ids)
        self._tokens += ids.size
        self._bytes += int(self._byte_lengths[ids].sum())
        self._largest_id = max(self._largest_id, int(ids.max(initial=0)))


class _HashingFile:
    """A file whose sha256 is computed while it is written."""

    def __init__(self, path: Path):
        self.file: BinaryIO = path.open("xb")
        self._digest = hashlib.sha256()

    def write(self, array: np.ndarray) -> None:
        data = array.tobytes()
        self.file.write(data)
        self._digest.update(data)

    def finish(self) -> str:
        self.file.flush()
        return self._digest.hexdigest()


def documents_path(path: Path) -> Path:
    """`train.bin` -> `train.documents.bin`, where the documents of the token file begin."""
    return path.with_name(f"{path.stem}.documents.bin")
