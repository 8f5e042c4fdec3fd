"""Bytes to text, in little memory, and with the position of what is wrong."""

import codecs
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO, Literal

from llamita.corpus.documents import Pieces
from llamita.corpus.files import SourceFile, open_unpacked
from llamita.errors import UserError

LONGEST_LINE = 1 << 28
"""Bytes of a JSON line, which is read whole: a longer one is taken for a file that is not JSON lines."""

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
LONGEST_MARK = 4
WITHOUT_MARK = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}
"""Encodings that say nothing of the byte order, or expect a mark -> how a file without a mark is read."""

Errors = Literal["strict", "skip", "replace"]


class NotTextError(Exception):
    """A file is not text in its encoding. `reason` goes after the file's name, as in "not UTF-8 text: byte 0xff"."""

    def __init__(self, reason: str, place: str = ""):
        super().__init__(reason)
        self.reason, self.place = reason, place


@dataclass(frozen=True)
class Encoding:
    """How bytes become text. A byte order mark at the beginning of a file says more than `name`.

    name     the encoding of files without a mark, as `codecs` knows it
    replace  whether bytes that are not text become U+FFFD; otherwise they raise `NotTextError`
    """

    name: str = "utf-8"
    replace: bool = False

    def of(self, stream: BinaryIO) -> "Encoding":
        """The encoding of a file, which is left after its byte order mark."""
        beginning = stream.read(LONGEST_MARK)
        for mark, name in BYTE_ORDER_MARKS:
            if beginning.startswith(mark):
                stream.seek(len(mark))
                return Encoding(name, self.replace)
        stream.seek(0)
        name = codecs.lookup(self.name).name
        return Encoding(WITHOUT_MARK.get(name, name), self.replace)

    @property
    def is_wide(self) -> bool:
        """Whether a character takes several bytes throughout, also one of ASCII: then NUL bytes are common."""
        return self.name.startswith(("utf-16", "utf-32"))

    def decoder(self) -> codecs.IncrementalDecoder:
        """A decoder that takes the bytes in any chunks."""
        return codecs.getincrementaldecoder(self.name)("replace" if self.replace else "strict")


def decoded(file: SourceFile, encoding: Encoding, read_size: int) -> Iterator[str]:
    """The text of a file, `read_size` bytes at a time. Not text mode, which cannot tell which byte is wrong."""
    with open_unpacked(file) as stream:
        encoding = encoding.of(stream)
        decoder = encoding.decoder()
        while chunk := stream.read(read_size):
            yield _decode(encoding, decoder, chunk, stream.tell())
        yield _decode(encoding, decoder, b"", stream.tell())  # refuses a character that the end of the file cuts off


def cut_at_newlines(pieces: Iterable[str | None]) -> Pieces:
    r"""Every line as a document of its own, without its end: \n, \r\n or \r."""
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    for piece in chain(pieces, (None,)):
        first, *others = newlines.decode(piece or "", final=piece is None).split("\n")
        for line in (first, *chain.from_iterable((None, line) for line in others)):
            if line != "":
                yield line
        if piece is None:
            yield None


def json_texts(file: SourceFile, encoding: Encoding, text_field: str) -> Iterator[str]:
    """The text of each line of JSON lines; blank lines are skipped. Errors name the line."""
    for number, line in enumerate(json_lines(file, encoding), 1):
        if line.strip():
            yield _text_of(line, text_field, f"{file.shown}, line {number:,}")


def json_lines(file: SourceFile, encoding: Encoding) -> Iterator[str]:
    """The lines of a file; each is decoded separately, so that the one that is not text has a number."""
    with open_unpacked(file) as stream:
        yield from _lines(stream, encoding.of(stream))


def _lines(stream: BinaryIO, encoding: Encoding) -> Iterator[str]:
    errors, number = "replace" if encoding.replace else "strict", 0
    if encoding.is_wide:  # in which a newline is not a single byte
        yield from _wide_lines(stream, encoding.name, errors)
        return
    while line := stream.readline(LONGEST_LINE):
        number += 1
        try:
            yield line.decode(encoding.name, errors)
        except UnicodeError as error:
            raise NotTextError(_reason(encoding.name, error), f"line {number:,}") from error


def _wide_lines(stream: BinaryIO, name: str, errors: str) -> Iterator[str]:
    text = io.TextIOWrapper(stream, name, errors, newline="\n")
    try:
        while line := text.readline(LONGEST_LINE):
            yield line
    except UnicodeError as error:
        raise NotTextError(_reason(name, error)) from error
    finally:
        text.detach()  # which would close the stream otherwise


def _text_of(line: str, text_field: str, where: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        # json says "line 1", which is always so here.
        reason = f"{error.msg}: character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
        raise UserError(
            f"{where}: not JSON ({reason}); each line must be an object with the text in a field"
        ) from error
    if not isinstance(row, dict):
        raise UserError(
            f"{where}: of type {type(row).__name__}, not an object with the text in a field; wrap it in one"
        )
    if text_field not in row:
        others = ", ".join(map(repr, row)) or "none"
        raise UserError(f"{where}: no field {text_field!r}, only {others:.100}; name the text's with --text_field")
    if not isinstance(row[text_field], str):
        kind = type(row[text_field]).__name__
        raise UserError(
            f"{where}: the field {text_field!r} is of type {kind}, not text; name the text's with --text_field"
        )
    return row[text_field]


def _decode(encoding: Encoding, decoder: codecs.IncrementalDecoder, chunk: bytes, end: int) -> str:
    """Bytes to text; an empty chunk is the end of the file. `end` is the file offset after the chunk.

    NUL is valid in most encodings, but never text.
    """
    if not (encoding.replace or encoding.is_wide) and (at := chunk.find(0)) >= 0:
        raise NotTextError(f"not a text file: NUL byte at byte {end - len(chunk) + at:,}")
    try:
        text = decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:
        # error.object is the chunk, after what the decoder had held back of the one before.
        raise NotTextError(_reason(encoding.name, error, end - len(error.object))) from error
    except UnicodeError as error:
        raise NotTextError(_reason(encoding.name, error)) from error
    if "\0" in text and not encoding.replace:
        raise NotTextError(f"not {encoding.name.upper()} text: it has NUL characters")
    return text.replace("\0", "\ufffd")


def _reason(encoding: str, error: UnicodeError, offset: int | None = None) -> str:
    """What is wrong with the bytes; `offset` is that of the first of them in the file, where it is known."""
    if not isinstance(error, UnicodeDecodeError):
        return f"not {encoding.upper()} text: {error}"
    place = "" if offset is None else f" at byte {offset + error.start:,}"
    return f"not {encoding.upper()} text: byte 0x{error.object[error.start]:02x}{place}"
