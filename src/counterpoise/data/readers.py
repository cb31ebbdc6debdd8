"""Named columns of a CSV, JSON lines or Parquet file as an Arrow table, read by Arrow itself, block by block."""

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from counterpoise.data.arrow_cache import TableSink, content_digest, file_state, staged
from counterpoise.data.arrow_columns import is_text, text_faults
from counterpoise.errors import UserError, nearest

BLOCK = 4 * 2**20  # bytes read at a time; Arrow reads many ahead, and a row cannot be longer than two
STAGED = 32 * 2**20  # bytes of a file beyond which its table is staged
FORMAT = 1
FAULTS = "\0faults"
"""Column of a staged table: `text_faults` of its texts."""
DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
JSON_LINES = (".jsonl", ".ndjson", ".json")
# What Arrow calls the values of a JSON column, and what they are read as. Its own guess would make dates of strings
# such as "2020-01-01".
TEXT = pa.large_binary()
LIST = pa.list_(TEXT)
JSON_KINDS = {"number": pa.int64(), "boolean": pa.bool_(), "array": LIST}


def read_columns(
    path: Path,
    text: str,
    others: Sequence[str],
    *,
    delimiter: str | None = None,
    quote: str | None = '"',
    skip_rows_after_header: int = 0,
) -> pa.Table:
    """Returns the columns `text` and `others` of the file, one table row for each row of the file.

    The suffix names the format: .csv .tsv .tab .jsonl .ndjson .json (each also with .gz) or .parquet. Columns
    of a CSV come as large_binary, so nothing is taken for a number or a null; those of JSON lines as
    large_binary, bool, int64 or float64, or lists of one of these; those of Parquet as they were stored.
    `delimiter`, `quote` (None: none) and `skip_rows_after_header` are for CSV, in which empty lines are no rows.
    Raises UserError where the file is missing, is not what its suffix says, or lacks a column.

    The table of a file of more than `STAGED` bytes is staged, under the content of the file and how it is read; its
    texts are large_binary and it has a column `FAULTS` more.
    """
    require_file(path)
    gz, suffix = path.suffix.lower() == ".gz", suffix_of(path)
    columns = list(dict.fromkeys([text, *others]))

    def read(keep: TableSink) -> pa.Table:
        if suffix in DELIMITERS:
            return _read_csv(path, columns, delimiter or DELIMITERS[suffix], quote, skip_rows_after_header, keep)
        if suffix in JSON_LINES:
            return _read_json(path, text, columns, keep)
        if suffix == ".parquet" and not gz:
            return _read_parquet(path, columns, keep)
        known = ", ".join([*DELIMITERS, *JSON_LINES])
        raise UserError(f"{path.name} has the suffix {suffix!r}; known are {known} (each also with .gz) and .parquet")

    with _told(path):
        if path.stat().st_size <= STAGED:
            return read(pa.RecordBatchReader.read_all)
        state = file_state(path)
        how = [FORMAT, content_digest(path), suffix, gz, text, delimiter, quote, skip_rows_after_header]

    def read_unchanged(keep: TableSink) -> None:
        with _told(path, (pa.ArrowException,)):
            read(lambda reader: keep(_for_stage(reader, path, text)))
        if file_state(path) != state:
            raise UserError(f"{path.name} changed while it was read: start again when it is complete")

    # The texts are the same whatever else is read, so that they need not be tokenised again.
    return staged(_digest([*how, columns]), read_unchanged, digest=_digest(how))


def suffix_of(path: Path) -> str:
    """Returns the suffix that names the format of a file, in lower case and without .gz."""
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


def require_file(path: Path) -> None:
    """Raises UserError where there is no such file, with the nearest name that there is."""
    if not path.is_file():
        folder = path.parent
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        where = "" if folder.is_dir() else f": there is no folder {folder}"
        raise UserError(f"there is no file {path}{where}.{nearest(path.name, names)}")


def require_columns(columns: Sequence[str], names: Sequence[str], file: str) -> None:
    """Raises UserError for the first of `columns` that is not among the file's `names`."""
    for column in columns:
        if column not in names:
            known = ", ".join(map(repr, names))
            raise UserError(f"{file} has no column {column!r}; it has {known}.{nearest(column, names)}")


def _require_columns(columns: Sequence[str], schema: pa.Schema, file: str) -> None:
    try:
        require_columns(columns, schema.names, file)
    except UnicodeDecodeError as error:
        absent = [column for column in columns if schema.get_field_index(column) < 0]
        if absent:
            raise UserError(f"{file} has no column {absent[0]!r}; the names of its columns are not in UTF-8") from error


def one_line(error: BaseException, limit: int = 300) -> str:
    """Returns what the error says as one line of at most `limit` characters."""
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _open(path: Path) -> pa.NativeFile:
    return pa.input_stream(path, compression="gzip" if path.suffix.lower() == ".gz" else None)


def _digest(values: list) -> str:
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()


@contextmanager
def _told(path: Path, errors: tuple[type[Exception], ...] = (pa.ArrowException, OSError)) -> Iterator[None]:
    """Tells of an error of reading in one line."""
    try:
        yield
    except errors as error:
        raise UserError(f"cannot read {path.name}: {one_line(error)}") from error


def _for_stage(reader: pa.RecordBatchReader, path: Path, text: str) -> pa.RecordBatchReader:
    """Returns the batches with their texts, if such they are, as large_binary, and with the column `FAULTS`."""
    place = reader.schema.get_field_index(text)
    schema = reader.schema
    if texts := is_text(schema.field(place).type):
        schema = schema.set(place, pa.field(text, pa.large_binary())).append(pa.field(FAULTS, pa.uint8()))

    def batches() -> Iterator[pa.RecordBatch]:
        while True:
            with _told(path, (OSError,)):
                batch = next(reader, None)
            if batch is None:
                return
            columns = batch.columns
            if texts:
                columns[place] = columns[place].cast(pa.large_binary())
                columns.append(pa.array(text_faults(columns[place])))
            yield pa.record_batch(columns, schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _read_csv(
    path: Path, columns: list[str], delimiter: str, quote: str | None, skip: int, keep: TableSink
) -> pa.Table:
    for key, character in (("delimiter", delimiter), ("quote", quote)):
        if character is not None and not (isinstance(character, str) and len(character) == 1 and character.isascii()):
            raise UserError(f"data.{key} is {character!r}; it must be one ASCII character")

    def read(threads: bool, only: list[str]) -> pa.RecordBatchReader:
        with _told(path, (OSError,)):
            return pa.csv.open_csv(
                _open(path),
                pa.csv.ReadOptions(use_threads=threads, block_size=BLOCK, skip_rows_after_names=skip),
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
        _require_columns(columns, read(True, []).schema, path.name)
        raise
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            raise UserError(f"{path.name} has no rows") from error
        if "straddling" in str(error):
            raise UserError(f"{path.name} has a row of more than {BLOCK >> 20} MiB: is a quote not closed?") from error
    try:  # only one thread knows the number of the row it stumbles over
        return keep(read(False, columns))
    except pa.ArrowInvalid as error:
        fault = re.match(r"CSV parse error: Row #(\d+): (.*)", one_line(error))
        if fault is None:
            raise
        row = int(fault[1]) - 1 - skip  # Arrow counts the header and the rows skipped
        raise UserError(f"cannot read {path.name}: row {row}: {fault[2]}") from error


def _read_json(path: Path, text: str, columns: list[str], keep: TableSink) -> pa.Table:
    def read(types: Mapping[str, pa.DataType] | None) -> pa.RecordBatchReader:
        schema, behaviour = (None, "infer") if types is None else (pa.schema(list(types.items())), "ignore")
        with _told(path, (OSError,)):
            return pa.json.open_json(
                _open(path),
                pa.json.ReadOptions(block_size=BLOCK),
                pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=behaviour),
            )

    types: Mapping[str, pa.DataType] | None = dict.fromkeys(columns, TEXT)
    fault = None
    while types is not None and types[text] == TEXT:
        try:
            table = keep(read(types))
        except pa.ArrowInvalid as error:
            fault = fault or error
            types = _retyped(types, str(error), read)
            continue
        # A column that no row has comes back as nulls. That it is there is seen in the first block.
        if len(table) and any(table[column].null_count == len(table) for column in columns):
            _require_columns(columns, read(None).schema, path.name)
        return table
    if "Empty JSON" in str(fault):
        raise UserError(f"{path.name} has no rows") from fault
    raise UserError(_json_fault(path, text, columns) or f"cannot read {path.name}: {fault}") from fault


def _retyped(
    types: Mapping[str, pa.DataType],
    complaint: str,
    read: Callable[[Mapping[str, pa.DataType]], pa.RecordBatchReader],
) -> Mapping[str, pa.DataType] | None:
    """Returns the types to read with after Arrow's complaint about those before, or None where none will do."""
    if found := re.search(r"Column\(/(.*?)(/\[\])?\) changed from \w+ to (\w+) in row", complaint, re.DOTALL):
        column, inside, kind = found[1], found[2], JSON_KINDS.get(found[3])
        # Each changes once, away from text: what holds two kinds has no type.
        if types.get(column) != (LIST if inside else TEXT) or kind in (None, inside and LIST):
            return None
        return {**types, column: pa.list_(kind) if inside else kind}
    if "Failed to convert JSON to int64" not in complaint:
        return None
    wider = {pa.int64(): pa.float64(), pa.list_(pa.int64()): pa.list_(pa.float64())}
    changed = {}
    for column, kind in types.items():
        if kind in wider:
            try:
                for _ in read({column: kind}):
                    pass
            except pa.ArrowInvalid:
                changed[column] = wider[kind]
    return {**types, **changed} if changed else None


def _json_fault(path: Path, text: str, columns: list[str]) -> str:
    """Returns what is wrong with the first bad row, or ""; Arrow does not count across blocks."""
    seen: dict[str, type] = {}
    with io.TextIOWrapper(_open(path), encoding="utf-8-sig", errors="replace", newline="\n") as lines:
        for row, line in enumerate((line for line in lines if line.strip()), start=1):
            where = f"cannot read {path.name}: row {row}"
            try:
                record = json.loads(line)
            except ValueError as error:
                return f"{where} is not JSON, of which each line must hold one object: {one_line(error)}"
            if not isinstance(record, dict):
                return f"{where} is a {type(record).__name__}; each line must hold one object"
            for column in columns:
                value = record.get(column)
                if isinstance(value, dict) or (column == text and not isinstance(value, str | None)):
                    return f"{where}: column {column!r} holds {type(value).__name__}, not text"
                inside = value if isinstance(value, list) else []
                for name, each in [(column, value), *((f"{column}[]", each) for each in inside)]:
                    kind = int if isinstance(each, float) else type(each)
                    if name != column and kind in (list, dict):
                        return f"{where}: column {column!r} holds a list of {kind.__name__}s, not of text"
                    if each is not None and seen.setdefault(name, kind) is not kind:
                        what, above = kind.__name__, seen[name].__name__
                        of = "" if name == column else "a list of "
                        return f"{where}: column {column!r} holds {of}{what}, in the rows above {of}{above}"
    return ""


def _read_parquet(path: Path, columns: list[str], keep: TableSink) -> pa.Table:
    with _told(path, (OSError,)):
        opened = pa.parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False)
    with opened as file:
        require_columns(columns, file.schema_arrow.names, path.name)
        schema = pa.schema([file.schema_arrow.field(column) for column in columns])
        return keep(pa.RecordBatchReader.from_batches(schema, file.iter_batches(2**14, columns=columns)))
