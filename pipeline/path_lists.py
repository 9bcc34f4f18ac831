"""Lists of image paths: text files of one path a line, and Parquet tables with a column of paths."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.errors import UserError

_BLANKS = " \t\r\n\v\f"
PATH_COLUMNS = ("path", "filepath", "file_path", "image_path", "file_name", "image")


def read_text_list(path: Path) -> Iterator[str]:
    """Return the lines of a list, which is read on the way; whether it can be is found out now."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error

    def lines() -> Iterator[str]:
        encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
        with path.open(encoding=encoding, errors=errors, newline="\n") as stream:
            for row, line in enumerate(stream):
                line = line.removeprefix("\ufeff") if row == 0 else line
                if line.strip(_BLANKS):
                    yield line.rstrip("\r\n")

    return lines()


def read_parquet_list(path: Path) -> Iterator[str]:
    """Return the paths of a table; its schema is read now and its rows on the way."""
    try:
        table = pq.ParquetFile(path)
        names = table.schema_arrow.names
        column = next((name for name in PATH_COLUMNS if name in names), None)
        if column is None:
            raise UserError(f"{path}: no column of paths; it needs one of {', '.join(PATH_COLUMNS)}, has {names}")
    except (OSError, ValueError) as error:
        raise _no_table(path, error) from error

    def rows() -> Iterator[str]:
        row = 0
        with table:
            try:
                for batch in table.iter_batches(columns=[column]):
                    for value in batch.column(0).to_pylist():
                        row += 1
                        if not isinstance(value, str) or not value:
                            raise UserError(f"{path}, row {row}: the column {column!r} must hold a path in each row")
                        yield value
            except (OSError, ValueError) as error:
                raise _no_table(path, error) from error

    return rows()


def _no_table(path: Path, error: Exception) -> UserError:
    return error if isinstance(error, UserError) else UserError(f"{path}: cannot be read as Parquet ({error})")
