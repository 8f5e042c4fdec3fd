"""Messages between a process and the ones that encode for it: bytes with their length, and nothing that runs code."""

import struct
from collections.abc import Sequence
from typing import IO

import numpy as np

from llamita.errors import UserError
from llamita.tokenizer.batches import Encoded

LENGTH = struct.Struct("<Q")
IDS, REFUSED, FAILED = b"i", b"r", b"f"
"""The first byte of a result: ids follow, or the text of a `UserError`, or the traceback of a defect."""
NO_TEXT = -1  # in the place of a string's length: a document ends


def send(stream: IO[bytes], content: bytes) -> None:
    """Write one message."""
    stream.write(LENGTH.pack(len(content)))
    stream.write(content)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes:
    """Read one message. Raises `EOFError` if the other process has ended."""
    (length,) = LENGTH.unpack(_exactly(stream, LENGTH.size))
    return _exactly(stream, length)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return content


def pack_strings(strings: Sequence[str | None]) -> bytes:
    """Strings, with None after each document -> the number of entries, their lengths in bytes, and their UTF-8."""
    encoded = [None if string is None else string.encode("utf-8", "surrogatepass") for string in strings]
    lengths = np.array([NO_TEXT if each is None else len(each) for each in encoded], np.int64)
    return b"".join((LENGTH.pack(len(encoded)), lengths.tobytes(), *filter(None, encoded)))


def unpack_strings(content: bytes) -> list[str | None]:
    """What `pack_strings` packed."""
    (count,) = LENGTH.unpack_from(content)
    lengths = np.frombuffer(content, np.int64, count, LENGTH.size)
    ends = LENGTH.size + lengths.nbytes + np.cumsum(np.maximum(lengths, 0))
    places = zip((ends - lengths).tolist(), ends.tolist(), (lengths == NO_TEXT).tolist(), strict=True)
    return [
        None if ends_here else content[first:end].decode("utf-8", "surrogatepass") for first, end, ends_here in places
    ]


def pack_ids(encoded: Encoded) -> bytes:
    """The number of documents that end in a batch, where, and the ids."""
    return b"".join((IDS, LENGTH.pack(len(encoded.ends)), encoded.ends.tobytes(), encoded.ids.tobytes()))


def unpack_result(content: bytes, dtype: np.dtype) -> Encoded:
    """What `pack_ids` packed, `dtype` being that of ids. Raises `UserError`, or `RuntimeError` for a defect."""
    kind, body = content[:1], memoryview(content)[1:]
    if kind != IDS:
        raise (UserError if kind == REFUSED else RuntimeError)(str(body, "utf-8"))
    (count,) = LENGTH.unpack_from(body)
    ends = np.frombuffer(body, np.int64, count, LENGTH.size)
    return Encoded(np.frombuffer(body[LENGTH.size + ends.nbytes :], dtype), ends)
