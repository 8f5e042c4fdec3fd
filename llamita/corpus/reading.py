"""Bytes to text, in little memory, and with the place of what is wrong."""

import codecs
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from llamita.corpus.files import SourceFile, open_unpacked
from llamita.errors import UserError
from llamita.tokenizer import END_OF_TEXT

LONGEST_LINE = 1 << 28
"""Bytes of a JSON line, which is read whole: beyond that, it is taken for a file that is no JSON lines."""


def decoded(file: SourceFile, read_size: int) -> Iterator[str]:
    """The text of a file, `read_size` bytes at a time. Not text mode, which cannot name the byte that is wrong."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_unpacked(file) as stream:
        if stream.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            stream.seek(0)
        while chunk := stream.read(read_size):
            _refuse_binary(file.path, chunk, stream.tell())
            yield _decode(file.path, decoder, chunk, stream.tell())
        _decode(file.path, decoder, b"", stream.tell())  # refuses a character that the file's end cuts off


def newlines_to_markers(chunks: Iterable[str]) -> Iterator[str]:
    r"""Text in which the end of a document stands in place of every line end: \n, \r\n or \r."""
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    for chunk in chunks:
        yield newlines.decode(chunk).replace("\n", END_OF_TEXT)
    yield newlines.decode("", final=True).replace("\n", END_OF_TEXT)


def json_texts(file: SourceFile, text_field: str) -> Iterator[str]:
    """The text of each line of JSON lines; blank lines are passed over. Raises UserError, naming the line."""
    with open_unpacked(file) as stream:
        number = 0
        while line := stream.readline(LONGEST_LINE):
            number += 1
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if line.strip():
                yield _text_of(line, text_field, f"{file.path}, line {number:,}")


def _text_of(line: bytes, text_field: str, where: str) -> str:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 text: byte 0x{line[error.start]:02x}; convert the file to UTF-8"
        ) from error
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
