"""A file on the hub that is read like a local one: what is read is fetched once, and stays in the cache."""

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from llamita.corpus.files import SourceFile, open_file
from llamita.corpus.ranges import Ranges
from llamita.corpus.web import EndedEarlyError, Retries, get, transient_errors
from llamita.errors import UserError

if TYPE_CHECKING:
    from httpx2 import Response

CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
SHA256_LENGTH = 64  # hexadecimal digits
BLOCK = 1 << 18
"""Bytes in the smallest request for text."""
LARGEST_REQUEST = 1 << 25
READ_AHEAD = 1 / 8
"""Text is requested in growing ranges, each this share of what was read before: few requests, little in excess."""


def nothing(*_: int) -> None:
    """Called where nobody wants to know."""


@dataclass(frozen=True)
class RemoteFile(SourceFile):
    """A file to fetch to `path`, of which only the ranges that are read are fetched.

    url           where it is
    label         what to call it: dataset and name
    checksum      sha256, or git's sha1 of small files, in hex; empty: unknown
    is_on_hub     whether `url` is on the hub, which may get the user's token
    before_fetch  called before each request
    """

    url: str = ""
    label: str = ""
    checksum: str = ""
    is_on_hub: bool = True
    before_fetch: Callable[[], object] = field(default=nothing, compare=False)

    @property
    def shown(self) -> str:
        """Its label, to print."""
        return self.label

    @property
    def is_local(self) -> bool:
        """Whether reading it is cheap."""
        return False

    @cached_property
    def ranges(self) -> Ranges:
        """What of it is in the cache."""
        return Ranges(self.path)

    @property
    def is_complete(self) -> bool:
        """Whether all of it is in the cache, and is what was published."""
        return self.ranges.verified

    def open_bytes(self) -> BinaryIO:
        """Open for reading, which fetches what is missing."""
        if self.is_complete:
            return open_file(self.path)
        if self.holds_parquet:
            return cast(BinaryIO, RangeReader(self, read_ahead=False))
        return cast(BinaryIO, io.BufferedReader(RangeReader(self, read_ahead=True), BLOCK))

    def fetch(self, start: int, end: int, arrived: Callable[[int], object] = nothing) -> None:
        """Make sure that these bytes are in the cache; `arrived` is called with the size of each chunk.

        When the last missing byte has arrived, the whole file is verified. Raises `UserError` where it cannot be
        fetched or is not what was published. What had arrived until then stays in the cache.
        """
        try:
            for gap in list(self.ranges.missing(start, end)):
                for first in range(*gap, LARGEST_REQUEST):
                    self._fetch(first, min(first + LARGEST_REQUEST, gap[1]), arrived)
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); choose another cache, LLAMITA_CACHE"
            ) from error
        if not self.is_complete and not any(self.ranges.missing(0, self.size)):
            self._verify()

    def fetch_all(self, arrived: Callable[[int], object]) -> None:
        """Make sure that the whole file is in the cache, and what was published."""
        if not self.is_complete:
            self.fetch(0, self.size, arrived)

    def bytes_missing(self) -> int:
        """How much of the file is not in the cache."""
        return sum(end - start for start, end in self.ranges.missing(0, self.size))

    def _fetch(self, start: int, end: int, arrived: Callable[[int], object]) -> None:
        retries = Retries(self.label)
        while start < end:
            try:
                for chunk in self._received(start, end):
                    start += len(chunk)
                    retries.succeeded()
                    arrived(len(chunk))
                if start < end:
                    raise EndedEarlyError
            except transient_errors() as error:
                retries.wait(error)

    def _received(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes of one request as they arrive, already written to the cache, and noted when the request ends."""
        self._create()
        self.before_fetch()
        at = start
        with get(self.url, start, end, trusted=self.is_on_hub) as response, self.path.open("r+b") as stream:
            stream.seek(start)
            position = self._first_byte(response)  # of the next chunk
            try:
                for chunk in response.iter_bytes():
                    useful = chunk[at - position : end - position] if position + len(chunk) > at else b""
                    position += len(chunk)
                    stream.write(useful)
                    at += len(useful)
                    yield useful
                    if at == end:
                        break
            finally:
                stream.flush()
                self.ranges.add(start, at)

    def _first_byte(self, response: "Response") -> int:
        """Where in the file the body of a response begins. Raises `UserError` where the file has another size."""
        if response.status_code == 206:
            match = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            first, total = match.groups() if match else ("", "")
        else:  # a server that ignores ranges sends everything
            first, total = "0", response.headers.get("Content-Length", "")
        if not first.isdecimal() or total != f"{self.size}":
            raise UserError(
                f"{self.label}: {total or 'unknown'} bytes on the server, but {self.size:,} were published: truncated "
                "or replaced; try again later, or give another --data_revision"
            )
        return int(first)

    def _create(self) -> None:
        make_folder(self.path.parent)
        self.path.touch()

    def _verify(self) -> None:
        self._create()  # an empty file needs no request
        with open_file(self.path) as stream:
            found = checksum(stream, self.size, like=self.checksum)
        if found != self.checksum:
            self.ranges.forget()
            raise UserError(
                f"{self.label}: not what was published, its checksum is {found[:9]}…, not {self.checksum[:9]}…; it was "
                "deleted from the cache: the same command fetches it again"
            )
        self.ranges.verify()


def make_folder(folder: Path) -> None:
    """Make a folder of the cache where it is missing. Raises `UserError` where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); choose another cache, LLAMITA_CACHE") from error


def checksum(stream: BufferedReader, size: int, like: str) -> str:
    """The checksum of a file of the kind that `like` is: sha256 as of Git LFS; git's own, sha1; empty for neither."""
    if not like:
        return ""
    if len(like) == SHA256_LENGTH:
        return hashlib.file_digest(stream, "sha256").hexdigest()
    return hashlib.file_digest(stream, lambda: hashlib.sha1(b"blob %d\0" % size)).hexdigest()


class RangeReader(io.RawIOBase):
    """A remote file as a stream of bytes. With `read_ahead`, more is fetched than is read, for the next read."""

    def __init__(self, file: RemoteFile, read_ahead: bool):
        self._file, self._read_ahead, self._position = file, read_ahead, 0
        self._local: BinaryIO | None = None

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position in the file."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to another position, and return it."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, except at the end of the file."""
        start = self._position
        end = min(start + len(buffer), self._file.size)
        if start >= end:
            return 0
        if any(self._file.ranges.missing(start, end)):
            self._release()  # Windows deletes no open file, if it turns out to be corrupted
            ahead = min(int(start * READ_AHEAD), LARGEST_REQUEST) if self._read_ahead else 0
            self._file.fetch(start, min(max(end, start + ahead), self._file.size))
        if self._local is None:
            self._local = open_file(self._file.path)
        self._local.seek(start)
        buffer[: end - start] = self._local.read(end - start)
        self._position = end
        return end - start

    def close(self) -> None:
        """Close the local file."""
        self._release()
        super().close()

    def _release(self) -> None:
        if self._local is not None:
            self._local.close()
        self._local = None
