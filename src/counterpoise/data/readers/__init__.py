"""Reading of tables: named columns of a CSV, JSON lines or Parquet file as an Arrow table."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from counterpoise.data.arrow_cache import TableSink, cached_table, content_digest, file_state
from counterpoise.data.arrow_columns import find_text_faults, is_text
from counterpoise.data.readers.csv import DELIMITERS, read_csv
from counterpoise.data.readers.files import require_file, reraise_as_user_error
from counterpoise.data.readers.json_lines import SUFFIXES, read_json_lines
from counterpoise.data.readers.parquet import read_parquet
from counterpoise.errors import UserError

MAX_IN_MEMORY = 32 * 2**20
"""Bytes of the largest file whose table is held in memory. Larger tables are written to the cache and mapped."""
FORMAT = 1
TEXT_FAULTS = "\0faults"
"""Extra column of a cached table: `find_text_faults` of its texts."""


def read_columns(
    path: Path,
    text: str,
    others: Sequence[str],
    *,
    delimiter: str | None = None,
    quote: str | None = '"',
    skip_rows_after_header: int = 0,
) -> pa.Table:
    """Read the columns `text` and `others` of a file, one table row per row of the file.

    The suffix selects the format: .csv .tsv .tab .jsonl .ndjson .json (each also with .gz) or .parquet. Columns of a
    CSV are large_binary: no value is converted to a number or a null. Columns of JSON lines are large_binary, bool,
    int64 or float64, or lists of these. Columns of Parquet keep their types.

    The table of a file of more than `MAX_IN_MEMORY` bytes is mapped from the cache. Its texts are large_binary, and it
    has the extra column `TEXT_FAULTS`.

    Args:
        path: The file.
        text: Column of the text.
        others: Further columns.
        delimiter: Delimiter of a CSV. Defaults to that of the suffix.
        quote: Quote character of a CSV. None: fields are not quoted.
        skip_rows_after_header: Rows of a CSV to skip. Empty lines do not count as rows.

    Raises:
        UserError: The file is missing, is not valid for its suffix, or lacks a column.
    """
    require_file(path)
    gz, suffix = path.suffix.lower() == ".gz", suffix_of(path)
    columns = list(dict.fromkeys([text, *others]))

    def read(keep: TableSink) -> pa.Table:
        if suffix in DELIMITERS:
            return read_csv(path, columns, delimiter or DELIMITERS[suffix], quote, skip_rows_after_header, keep)
        if suffix in SUFFIXES:
            return read_json_lines(path, text, columns, keep)
        if suffix == ".parquet" and not gz:
            return read_parquet(path, columns, keep)
        known = ", ".join([*DELIMITERS, *SUFFIXES])
        raise UserError(f"{path.name} has the suffix {suffix!r}; known are {known} (each also with .gz) and .parquet")

    with reraise_as_user_error(path):
        if path.stat().st_size <= MAX_IN_MEMORY:
            return read(pa.RecordBatchReader.read_all)
        state = file_state(path)
        how = [FORMAT, content_digest(path), suffix, gz, text, delimiter, quote, skip_rows_after_header]

    def read_unchanged(keep: TableSink) -> None:
        with reraise_as_user_error(path, (pa.ArrowException,)):
            read(lambda reader: keep(_with_text_faults(reader, path, text)))
        if file_state(path) != state:
            raise UserError(f"{path.name} changed while it was read: start again when the file is complete")

    # The digest of the texts does not depend on the other columns: they need not be tokenised again.
    return cached_table(_digest([*how, columns]), read_unchanged, digest=_digest(how))


def suffix_of(path: Path) -> str:
    """Return the suffix that selects the format of a file, in lower case and without .gz."""
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


def _digest(values: list) -> str:
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()


def _with_text_faults(reader: pa.RecordBatchReader, path: Path, text: str) -> pa.RecordBatchReader:
    """Return the batches with the texts as large_binary and with the column `TEXT_FAULTS`."""
    place = reader.schema.get_field_index(text)
    schema = reader.schema
    if texts := is_text(schema.field(place).type):
        schema = schema.set(place, pa.field(text, pa.large_binary())).append(pa.field(TEXT_FAULTS, pa.uint8()))

    def batches() -> Iterator[pa.RecordBatch]:
        while True:
            with reraise_as_user_error(path, (OSError,)):
                batch = next(reader, None)
            if batch is None:
                return
            columns = batch.columns
            if texts:
                columns[place] = columns[place].cast(pa.large_binary())
                columns.append(pa.array(find_text_faults(columns[place])))
            yield pa.record_batch(columns, schema)

    return pa.RecordBatchReader.from_batches(schema, batches())
