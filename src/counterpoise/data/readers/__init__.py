"""Reading of tables: named columns of a CSV, JSON lines or Parquet file as an Arrow table."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from counterpoise.data.arrow_cache import TableSink, cached_table, content_digest
from counterpoise.data.arrow_columns import find_text_faults, is_text
from counterpoise.data.checksums import file_state
from counterpoise.data.readers.csv import read_csv
from counterpoise.data.readers.csv_structure import DELIMITERS, CsvStructure
from counterpoise.data.readers.encoding import TextFile
from counterpoise.data.readers.files import NoticeSink, require_file, reraise_as_user_error
from counterpoise.data.readers.format import FileFormat
from counterpoise.data.readers.json_lines import SUFFIXES, json_names, read_json
from counterpoise.data.readers.parquet import parquet_names, read_parquet
from counterpoise.errors import UserError

MAX_IN_MEMORY = 32 * 2**20
"""Bytes of the largest file whose table is held in memory. Larger tables are written to the cache and mapped."""
FORMAT = 2
TEXT_FAULTS = "\0faults"
"""Extra column of a cached table: `find_text_faults` of its texts."""
NOTICES = b"counterpoise.notices"
"""Key of a table's metadata: what the user should know of the file, a JSON list of lines."""


def read_columns(path: Path, text: str, others: Sequence[str], form: FileFormat | None = None) -> pa.Table:
    """Read the columns `text` and `others` of a file, one table row per row of the file.

    The suffix selects the format: .csv .tsv .tab .jsonl .ndjson .json (each also with .gz) or .parquet. gzip is
    recognised by the content, too. Columns of a CSV are large_binary: no value is converted to a number or a null.
    Columns of JSON are large_binary, bool, int64 or float64, or lists of these. Columns of Parquet keep their types.

    The table of a file of more than `MAX_IN_MEMORY` bytes is mapped from the cache. Its texts are large_binary, and it
    has the extra column `TEXT_FAULTS`. `notices_of` returns what the user should know of the file.

    Args:
        path: The file.
        text: Column of the text.
        others: Further columns.
        form: How the file is read. Defaults to `FileFormat()`.

    Raises:
        UserError: The file is missing, is not valid for its suffix, or lacks a column.
    """
    form = form or FileFormat()
    suffix, gz = _checked_suffix(path, form), path.suffix.lower() == ".gz"
    columns = list(dict.fromkeys([text, *others]))

    def read(keep: NoticeSink) -> pa.Table:
        if suffix == ".parquet":
            return read_parquet(path, columns, lambda reader: keep(reader, ()))
        with reraise_as_user_error(path):
            file = TextFile.of(path, form)
        if suffix in DELIMITERS:
            return read_csv(file, columns, form, suffix, keep)
        return read_json(file, text, columns, lambda reader: keep(reader, file.notices))

    with reraise_as_user_error(path):
        if path.stat().st_size <= MAX_IN_MEMORY:
            return read(lambda reader, notices: _with_notices(reader.read_all(), notices))
        state = file_state(path)
        how = [FORMAT, content_digest(path), suffix, gz, text, asdict(form)]

    def read_unchanged(keep: TableSink) -> None:
        with reraise_as_user_error(path, (pa.ArrowException, UnicodeError)):
            read(lambda reader, notices: keep(_with_text_faults(reader, path, text, notices)))
        if file_state(path) != state:
            raise UserError(f"{path.name} changed while it was read: start again when the file is complete")

    # The digest of the texts does not depend on the other columns: they need not be tokenised again.
    return cached_table(_digest([*how, columns]), read_unchanged, digest=_digest(how))


def column_names(path: Path, form: FileFormat | None = None) -> list[str]:
    """Return the names of all columns of a file; of JSON the keys of all objects, in the order of their first use.

    Args:
        path: The file.
        form: How the file is read. Defaults to `FileFormat()`.

    Raises:
        UserError: The file is missing or is not valid for its suffix.
    """
    form = form or FileFormat()
    suffix = _checked_suffix(path, form)
    if suffix == ".parquet":
        return parquet_names(path)
    with reraise_as_user_error(path):
        file = TextFile.of(path, form)
        return CsvStructure.of(file, form, suffix).names if suffix in DELIMITERS else json_names(file)


def notices_of(table: pa.Table) -> list[str]:
    """Return what the user should know of the file of a table, one line each, such as its encoding."""
    return json.loads((table.schema.metadata or {}).get(NOTICES, "[]"))


def suffix_of(path: Path) -> str:
    """Return the suffix that selects the format of a file, in lower case and without .gz."""
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


def _checked_suffix(path: Path, form: FileFormat) -> str:
    """Return the suffix that selects the format of a file; raise UserError for a missing or an unknown file."""
    form.check()
    require_file(path)
    suffix = suffix_of(path)
    if suffix not in (*DELIMITERS, *SUFFIXES) and (suffix != ".parquet" or path.suffix.lower() == ".gz"):
        known = ", ".join([*DELIMITERS, *SUFFIXES])
        raise UserError(f"{path.name} has the suffix {suffix!r}; known are {known} (each also with .gz) and .parquet")
    return suffix


def _digest(values: list) -> str:
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()


def _with_notices(table: pa.Table, notices: Sequence[str]) -> pa.Table:
    return table.replace_schema_metadata({**(table.schema.metadata or {}), NOTICES: json.dumps(notices)})


def _with_text_faults(
    reader: pa.RecordBatchReader, path: Path, text: str, notices: Sequence[str]
) -> pa.RecordBatchReader:
    """Return the batches with the texts as large_binary, the column `TEXT_FAULTS`, and the notices as metadata."""
    place = reader.schema.get_field_index(text)
    schema = reader.schema.with_metadata({**(reader.schema.metadata or {}), NOTICES: json.dumps(notices)})
    if texts := is_text(schema.field(place).type):
        schema = schema.set(place, pa.field(text, pa.large_binary())).append(pa.field(TEXT_FAULTS, pa.uint8()))

    def batches() -> Iterator[pa.RecordBatch]:
        while True:
            with reraise_as_user_error(path, (OSError, UnicodeError)):
                batch = next(reader, None)
            if batch is None:
                return
            columns = batch.columns
            if texts:
                columns[place] = columns[place].cast(pa.large_binary())
                columns.append(pa.array(find_text_faults(columns[place])))
            yield pa.record_batch(columns, schema)

    return pa.RecordBatchReader.from_batches(schema, batches())
