"""Functions that all readers share: checks of files and columns, and reporting of errors."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from counterpoise.errors import UserError, nearest, one_line

NoticeSink = Callable[[pa.RecordBatchReader, Sequence[str]], pa.Table]
"""A `TableSink` that also receives what the user should know of the file, one line each."""
BLOCK = 4 * 2**20
"""Bytes that are read at a time. Arrow reads several blocks ahead. A row must fit into two blocks."""

SHOWN_FILES = 3
"""Files of a folder that a message names."""


@contextmanager
def reraise_as_user_error(
    path: Path, errors: tuple[type[Exception], ...] = (pa.ArrowException, OSError, UnicodeError)
) -> Iterator[None]:
    """Raise errors of reading `path` as a UserError of one line."""
    try:
        yield
    except errors as error:
        hint = ": set data.encoding to the encoding of the file" if isinstance(error, UnicodeError) else ""
        raise UserError(f"cannot read {path.name}: {one_line(error)}{hint}") from error


def require_file(path: Path) -> None:
    """Raise UserError if the file does not exist, and suggest the nearest name."""
    if path.is_dir():
        names = sorted(each.name for each in path.iterdir())[:SHOWN_FILES]
        raise UserError(f"{path} is a folder: name a file in it, such as {', '.join(names) or 'train.csv'}")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is a pipe or a device, which cannot be read twice: save its content to a file")
    if not path.is_file():
        folder = path.parent
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        where = "" if folder.is_dir() else f": there is no folder {folder}"
        raise UserError(f"there is no file {path}{where}.{nearest(path.name, names)}")


def require_columns(columns: Sequence[str], names: Sequence[str], file: str, hint: str = "") -> None:
    """Raise UserError for the first of `columns` that is not among the `names` of the file, or occurs twice."""
    for column in columns:
        if column not in names:
            known = ", ".join(map(repr, names))
            raise UserError(f"{file} has no column {column!r}; it has {known}.{nearest(column, names)}{hint}")
        if names.count(column) > 1:
            raise UserError(f"{file} has {names.count(column)} columns named {column!r}: rename all but one{hint}")


def require_columns_of_schema(columns: Sequence[str], schema: pa.Schema, file: str) -> None:
    """Raise UserError for the first of `columns` that the schema lacks."""
    try:
        require_columns(columns, schema.names, file)
    except UnicodeDecodeError as error:
        absent = [column for column in columns if schema.get_field_index(column) < 0]
        if absent:
            raise UserError(f"{file} has no column {absent[0]!r}; the names of its columns are not in UTF-8") from error
