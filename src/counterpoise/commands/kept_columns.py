"""Columns of the input file that `counterpoise.predict` writes beside the predictions."""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from counterpoise.data.arrow_columns import chunks, decode_utf8, flatten_lists, format_rows, is_list, is_text
from counterpoise.data.readers import column_names, suffix_of
from counterpoise.data.readers.format import FileFormat
from counterpoise.errors import UserError


def add_kept_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that select the columns and their names."""
    parser.add_argument(
        "--keep",
        action="append",
        metavar="COLUMN",
        help="column to write beside the prediction; repeatable",
    )
    parser.add_argument("--keep-all", action="store_true", help="write all columns of the file beside the prediction")
    parser.add_argument(
        "--keep-prefix",
        metavar="TEXT",
        help="text in front of the names of kept columns, such as input_",
    )


def kept_names(arguments: argparse.Namespace, form: FileFormat) -> list[str]:
    """Return the names of the columns to keep, in the order of the output.

    A column of ids that is named "id" is a column of the predictions already: `--keep-all` does not repeat it.

    Raises:
        UserError: The options contradict each other, or the file cannot be read.
    """
    if arguments.keep and arguments.keep_all:
        raise UserError("--keep has no effect with --keep-all: use one of them")
    if arguments.keep_prefix is not None and not (arguments.keep or arguments.keep_all):
        raise UserError("--keep-prefix has no effect: name columns to keep with --keep, or use --keep-all")
    if arguments.keep_all:
        already = {"id"} if arguments.id == "id" and not arguments.keep_prefix else set()
        return [name for name in column_names(arguments.file, form) if name not in already]
    names = arguments.keep or []
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--keep {twice[0]} is given {names.count(twice[0])} times: give it once")
    return names


class KeptColumns:
    """Columns of the input, with the names and types of the output.

    Columns of a Parquet file that are written to Parquet keep their types. Otherwise bytes become text.

    Args:
        table: Table with the columns.
        names: Names of the columns in the table.
        arguments: Command line: the input file, the columns of the text, and the prefix of the names.
        form: Format of the output.

    Attributes:
        schema: Schema of the output.

    Raises:
        UserError: A column cannot be written in this format, or a value is not text in UTF-8.
    """

    def __init__(self, table: pa.Table, names: Sequence[str], arguments: argparse.Namespace, form: str) -> None:
        self._table = table.select(list(names))
        from_parquet, fields = suffix_of(arguments.file) == ".parquet", []
        for name, column in zip(names, self._table.columns, strict=True):
            as_stored = form == "parquet" and from_parquet and name not in arguments.text
            kind = _plain_type(column.type, as_stored)
            where = f"{arguments.file}: column {name!r} (--keep)"
            if form != "parquet" and not _is_writable(kind):
                raise UserError(
                    f"{where} of type {column.type} cannot be written as {form}: leave it out, or write Parquet"
                )
            _check_values(column, kind, where, form)
            fields.append(pa.field(f"{arguments.keep_prefix or ''}{name}", kind))
        self.schema = pa.schema(fields)

    def rows(self, start: int, stop: int) -> pa.Table:
        """Return the rows from `start` to `stop`, exclusive."""
        part = self._table.slice(start, stop - start)
        columns = [column.cast(kind) for column, kind in zip(part.columns, self.schema.types, strict=True)]
        return pa.table(columns, schema=self.schema)


def _plain_type(kind: pa.DataType, as_stored: bool) -> pa.DataType:
    """Return the type of a column in the output: no dictionary and, unless `as_stored`, text instead of bytes."""
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type, as_stored)
    if as_stored:
        return kind
    if is_list(kind):
        return pa.list_(_plain_type(kind.value_type, as_stored))
    return pa.large_string() if is_text(kind) else kind


def _is_writable(kind: pa.DataType) -> bool:
    """Return whether text formats can hold values of this type."""
    if is_list(kind):
        return _is_writable(kind.value_type)
    tests: tuple[Callable[[pa.DataType], bool], ...] = (
        is_text,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_date,
        pa.types.is_time,
        pa.types.is_timestamp,
        pa.types.is_decimal,
    )
    return any(test(kind) for test in tests)


def _check_values(column: pa.ChunkedArray, kind: pa.DataType, where: str, form: str) -> None:
    """Raise UserError before the first prediction for bytes that are not UTF-8, and for infinity in JSON."""
    first = 1
    for chunk in chunks(column):
        rows, values = flatten_lists(chunk) if is_list(kind) else (np.arange(len(chunk)), chunk)
        inside, bad = kind.value_type if is_list(kind) else kind, np.zeros(len(values), bool)
        if inside == pa.large_string():
            bad = decode_utf8(values.cast(pa.large_binary()))[1]
        elif pa.types.is_floating(inside) and (form == "jsonl" or (form != "parquet" and is_list(kind))):
            bad = pc.fill_null(pc.is_inf(values), False).to_numpy(zero_copy_only=False)
        if bad.any():
            what = "is not in UTF-8" if inside == pa.large_string() else "holds infinity, which JSON cannot hold,"
            raise UserError(f"{where} {what} in {format_rows(np.unique(rows[bad]) + first)}")
        first += len(chunk)
