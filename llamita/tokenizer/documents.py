"""The text that tokenizers are trained on: files, or documents in memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from llamita.errors import UserError

BLOCK = 1 << 20
"""Characters read from a file at a time."""


def read_documents(paths_or_documents: str | Path | Iterable[str | Path | Iterator[str]]) -> Iterator[Iterable[str]]:
    """Each document as the strings that make it up: a file in blocks, a document in memory as one string.

    A single `str` or `Path` is the path of a file. In an iterable, a `Path` is a file, a `str` is a document, and an
    iterator is a document that comes as strings, cut anywhere.
    Files are UTF-8, line ends as they are. Raises UserError for a file that can't be read.
    """
    if isinstance(paths_or_documents, str | Path):
        paths_or_documents = [Path(paths_or_documents)]
    for item in paths_or_documents:
        if not isinstance(item, str | Path | Iterator):
            raise UserError(f"a document is of type {type(item).__name__}; give Path for files, str for documents")
        yield read_blocks(item) if isinstance(item, Path) else [item] if isinstance(item, str) else item


def read_blocks(file: Path) -> Iterator[str]:
    """The text of a file in blocks."""
    try:
        # newline="": Python would otherwise turn \r\n into \n, and the ids would be those of another text.
        with file.open(encoding="utf-8", newline="") as stream:
            while block := stream.read(BLOCK):
                yield block
    except OSError as error:
        raise UserError(f"{file}: can't be read ({error.strerror}); give the path of a text file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text ({error.reason}); convert it, for example with iconv") from error
