"""Reading of CSV files."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from counterpoise.data.arrow_cache import TableSink
from counterpoise.data.readers import files
from counterpoise.data.readers.files import one_line, open_file, require_columns_of_schema, reraise_as_user_error
from counterpoise.errors import UserError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}


def read_csv(path: Path, columns: list[str], delimiter: str, quote: str | None, skip: int, keep: TableSink) -> pa.Table:
    """Read columns of a CSV as large_binary.

    Args:
        path: The file. A name that ends in .gz is decompressed.
        columns: Columns to read.
        delimiter: One ASCII character.
        quote: One ASCII character. None: fields are not quoted.
        skip: Rows to skip after the header.
        keep: Receives the batches.

    Raises:
        UserError: A setting is invalid, a column is missing, or a row cannot be parsed; the message names the row.
    """
    for key, character in (("delimiter", delimiter), ("quote", quote)):
        if character is not None and not (isinstance(character, str) and len(character) == 1 and character.isascii()):
            raise UserError(f"data.{key} is {character!r}; it must be one ASCII character")

    def read(threads: bool, only: list[str]) -> pa.RecordBatchReader:
        with reraise_as_user_error(path, (OSError,)):
            return pa.csv.open_csv(
                open_file(path),
                pa.csv.ReadOptions(use_threads=threads, block_size=files.BLOCK, skip_rows_after_names=skip),
                pa.csv.ParseOptions(
                    delimiter=delimiter, quote_char=quote or False, newlines_in_values=quote is not None
                ),
                pa.csv.ConvertOptions(
                    check_utf8=False,
                    column_types=dict.fromkeys(only, pa.large_binary()),
                    include_columns=only,
                ),
            )

    try:
        return keep(read(True, columns))
    except pa.ArrowKeyError:
        require_columns_of_schema(columns, read(True, []).schema, path.name)
        raise
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            raise UserError(f"{path.name} has no rows") from error
        if "straddling" in str(error):
            raise UserError(
                f"{path.name} has a row of more than {files.BLOCK >> 20} MiB: is a quote not closed?"
            ) from error
    try:  # Arrow reports the row number only when it reads with one thread.
        return keep(read(False, columns))
    except pa.ArrowInvalid as error:
        fault = re.match(r"CSV parse error: Row #(\d+): (.*)", one_line(error))
        if fault is None:
            raise
        row = int(fault[1]) - 1 - skip  # Arrow counts the header and the rows skipped
        raise UserError(f"cannot read {path.name}: row {row}: {fault[2]}") from error
