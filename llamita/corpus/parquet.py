"""The texts in Parquet files, read a row group at a time; of each, only the column of the text."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from llamita.corpus.files import SourceFile, open_unpacked
from llamita.errors import UserError

if TYPE_CHECKING:
    import pyarrow

ROWS = 1024
"""Rows that are decoded at a time."""


def parquet_texts(file: SourceFile, text_field: str) -> Iterator[str]:
    """The text of each row of a Parquet file; a row without text (null) is an empty one.

    Raises `UserError` for a file that is damaged or not Parquet, without such a column, or one that is not text, and
    where pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f'{file.shown}: Parquet files need pyarrow: pip install "llamita[data]"') from None
    with open_unpacked(file) as stream:
        try:
            yield from _texts(stream, file.shown, text_field)
        except (pyarrow.ArrowException, OSError) as error:
            reason = " ".join(f"{error}".split())
            raise UserError(f"{file.shown}: not a readable Parquet file ({reason:.200}); fetch it again") from error


def _texts(stream: BinaryIO, shown: str, text_field: str) -> Iterator[str]:
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(stream, page_checksum_verification=True)
    _require_text(table.schema_arrow, shown, text_field)
    for group in range(table.num_row_groups):
        for batch in table.iter_batches(ROWS, row_groups=[group], columns=[text_field], use_threads=False):
            yield from (text or "" for text in batch.column(0).to_pylist())


def _require_text(schema: "pyarrow.Schema", shown: str, text_field: str) -> None:
    from pyarrow import large_string, string, string_view

    if text_field not in schema.names:
        others = ", ".join(map(repr, schema.names)) or "none"
        raise UserError(f"{shown}: no field {text_field!r}, only {others:.100}; name the text's with --text_field")
    kind = schema.field(text_field).type
    if kind not in (string(), large_string(), string_view()):
        raise UserError(f"{shown}: the field {text_field!r} is of type {kind}; name the text's with --text_field")
