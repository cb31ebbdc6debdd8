"""Write tables in blocks as Parquet, CSV, TSV or JSON lines, to a file or a stream."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from counterpoise.data.arrow_columns import is_list
from counterpoise.errors import UserError
from counterpoise.formulas import escape_formula
from counterpoise.io import atomic_path

TEXT_FORMATS = ("csv", "tsv", "jsonl")
"""Formats that can be compressed with gzip, and written to a stream."""
DELIMITERS = {"csv": ",", "tsv": "\t"}

WriteTable = Callable[[pa.Table], None]


@dataclass(frozen=True)
class Stream:
    """A binary stream that a table is written to, and its format.

    Args:
        file: The stream. It stays open.
        form: "csv", "tsv" or "jsonl".
    """

    file: IO[bytes]
    form: str


def format_of(path: Path, option: str) -> str:
    """Return the format that the suffix of a file selects: "parquet", "csv", "tsv" or "jsonl".

    Args:
        path: The file. Text formats may have a further suffix .gz.
        option: Option that names the file, for messages.

    Raises:
        UserError: The suffix is none of these.
    """
    compressed = path.suffix.lower() == ".gz"
    found = Path(path.stem if compressed else path.name).suffix.lower().removeprefix(".")
    if found in TEXT_FORMATS or (found == "parquet" and not compressed):
        return found
    shown = "".join(path.suffixes[-2:]) if compressed else path.suffix
    raise UserError(
        f"{option} {path}: " + (f"the suffix '{shown}' is not supported" if shown else "a suffix is missing") + "; "
        "use .parquet, .csv, .tsv or .jsonl (the last three also with .gz)"
    )


@contextmanager
def table_writer(
    target: str | Path | Stream, schema: pa.Schema, *, escape_formulas: bool = False
) -> Iterator[WriteTable]:
    """Open a file or stream of tables. A file appears when the block ends without an error.

    Args:
        target: The file, whose suffix selects the format (see `format_of`), or the stream.
        schema: Schema of the tables.
        escape_formulas: Whether texts of CSV and TSV that a spreadsheet would evaluate start with an apostrophe. See
            `formulas.escape_formula`. Defaults to False.

    Yields:
        A function that appends a table.
    """
    if isinstance(target, Stream):
        with _text_writer(target.file, target.form, schema, escape_formulas) as write:
            yield write
        return
    path = Path(target)
    form = format_of(path, "cannot write")
    with atomic_path(path) as unfinished:
        if form == "parquet":
            with pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
                yield writer.write_table
            return
        with unfinished.open("wb") as raw:
            if path.suffix.lower() == ".gz":
                # Without a time in its header, so that equal tables give equal files.
                with (
                    gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
                    _text_writer(packed, form, schema, escape_formulas) as write,
                ):
                    yield write
            else:
                with _text_writer(raw, form, schema, escape_formulas) as write:
                    yield write


@contextmanager
def _text_writer(stream: Any, form: str, schema: pa.Schema, escape_formulas: bool) -> Iterator[WriteTable]:
    """Write tables to a binary stream, which stays open.

    Numbers have the shortest decimal form that gives the same number. Lists are JSON in a field of CSV and TSV. Dates,
    times and decimals are text. A missing value is an empty field, or null in JSON lines.

    Args:
        stream: The stream.
        form: "csv", "tsv" or "jsonl".
        schema: Schema of the tables.
        escape_formulas: See `table_writer`.

    Yields:
        A function that appends a table.
    """
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")

    if form == "jsonl":

        def write(table: pa.Table) -> None:
            rows = zip(*map(_plain, table.columns), strict=True)
            text.writelines(_json(dict(zip(schema.names, row, strict=True))) + "\n" for row in rows)
    else:
        writer = csv.writer(text, delimiter=DELIMITERS[form], lineterminator="\n")
        # Python 3.11 does not quote a carriage return that is not part of the line terminator.
        quoting = csv.writer(text, delimiter=DELIMITERS[form], lineterminator="\n", quoting=csv.QUOTE_ALL)

        def write_rows(rows: Iterable[Sequence]) -> None:
            for row in rows:
                if escape_formulas:
                    row = [escape_formula(field) if isinstance(field, str) else field for field in row]
                returns = any(isinstance(field, str) and "\r" in field for field in row)
                (quoting if returns else writer).writerow(row)

        write_rows([schema.names])

        def write(table: pa.Table) -> None:
            write_rows(zip(*map(_fields, table.columns), strict=True))

    try:
        yield write
        text.flush()
    finally:
        text.detach()


def _fields(column: pa.ChunkedArray) -> list:
    """Return the values of a column as fields of a CSV."""
    values = _plain(column)
    return [None if value is None else _json(value) for value in values] if is_list(column.type) else values


def _plain(column: pa.ChunkedArray) -> list:
    """Return the values of a column as text, numbers, bools and lists of these; NaN becomes None."""
    kind = column.type
    if is_list(kind):
        values = iter(_plain(pc.list_flatten(column)))
        sizes = pc.list_value_length(column).to_pylist()
        return [None if size is None else list(islice(values, size)) for size in sizes]
    if pa.types.is_floating(kind):
        return _decimal(column).to_pylist()
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.string()).to_pylist()
    return column.to_pylist()


def _decimal(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return float64 values whose shortest decimal form is that of the given values."""
    shown = pc.if_else(pc.is_nan(values), None, values)
    return shown.cast(pa.string()).cast(pa.float64())


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
