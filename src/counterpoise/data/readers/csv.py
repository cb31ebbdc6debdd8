"""Reading of CSV files."""

import io
import re

import pyarrow as pa
import pyarrow.csv

from counterpoise.data.readers import files
from counterpoise.data.readers.csv_structure import CsvStructure, check_quotes, escape_hint
from counterpoise.data.readers.encoding import TextFile
from counterpoise.data.readers.files import NoticeSink, require_columns, reraise_as_user_error
from counterpoise.data.readers.format import FileFormat
from counterpoise.errors import UserError, one_line


class _WholeLineEnds(io.RawIOBase):
    """A stream whose blocks do not end between CR and LF: Arrow loses such an LF within a quoted text."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream, self._left = stream, b""

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes."""
        data = self._left + self._stream.read(size - len(self._left))
        self._left = b"\r" if len(data) > 1 and data.endswith(b"\r") else b""
        return data[: len(data) - len(self._left)]


def read_csv(file: TextFile, columns: list[str], form: FileFormat, suffix: str, keep: NoticeSink) -> pa.Table:
    """Read columns of a CSV as large_binary.

    Args:
        file: The file.
        columns: Columns to read.
        form: How the file is read.
        suffix: Suffix that selects the delimiter.
        keep: Receives the batches and the notices.

    Raises:
        UserError: A column is missing or occurs twice, a quotation mark is not closed, or a row cannot be parsed; the
            message names the line or the row.
    """
    with reraise_as_user_error(file.path):
        structure = CsvStructure.of(file, form, suffix)
        require_columns(columns, structure.names, file.name, structure.missing_column_hint(columns, form))
        notices = [*file.notices, *check_quotes(file, structure, form)]

    def read(threads: bool) -> pa.RecordBatchReader:
        with reraise_as_user_error(file.path, (OSError,)):
            return pa.csv.open_csv(
                pa.PythonFile(_WholeLineEnds(file.open())),
                pa.csv.ReadOptions(
                    use_threads=threads,
                    block_size=files.BLOCK,
                    skip_rows=structure.first_lines,
                    skip_rows_after_names=form.skip_rows_after_header,
                    column_names=None if form.columns is None else structure.names,
                ),
                pa.csv.ParseOptions(
                    delimiter=structure.delimiter,
                    quote_char=form.quote or False,
                    escape_char=form.escape or False,
                    newlines_in_values=form.quote is not None,
                    # An empty line is an empty text if there is no other column.
                    ignore_empty_lines=len(structure.names) > 1,
                ),
                pa.csv.ConvertOptions(
                    check_utf8=False,
                    column_types=dict.fromkeys(columns, pa.large_binary()),
                    include_columns=columns,
                ),
            )

    try:
        return keep(read(True), notices)
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            raise UserError(f"{file.name} has no rows") from error
        if "straddling" in str(error):
            raise UserError(
                f"{file.name} has a row of more than {files.BLOCK >> 20} MiB: is a quote not closed?"
            ) from error
    try:  # Arrow reports the row number only when it reads with one thread.
        return keep(read(False), notices)
    except pa.ArrowInvalid as error:
        fault = re.match(r"CSV parse error: Row #(\d+): (.*)", one_line(error))
        if fault is None:
            raise
        # Arrow counts the header and the rows skipped.
        before = structure.first_lines + (form.columns is None) + form.skip_rows_after_header
        hint = escape_hint(fault[2].encode(), form)
        raise UserError(f"cannot read {file.name}: row {int(fault[1]) - before}: {fault[2]}{hint}") from error
