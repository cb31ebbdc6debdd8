"""Named columns of a CSV, JSON lines or Parquet file as an Arrow table, read by Arrow itself."""

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from counterpoise.errors import UserError, nearest

BLOCK = 32 * 2**20  # bytes read at a time; a row cannot be longer than two blocks
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
    """
    require_file(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    gz = suffixes[-1:] == [".gz"]
    suffix = suffixes[-1 - gz] if len(suffixes) > gz else ""
    columns = list(dict.fromkeys([text, *others]))
    try:
        if suffix in DELIMITERS:
            return _read_csv(path, columns, delimiter or DELIMITERS[suffix], quote, skip_rows_after_header)
        if suffix in JSON_LINES:
            return _read_json(path, text, columns)
        if suffix == ".parquet" and not gz:
            return _read_parquet(path, columns)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"cannot read {path.name}: {one_line(error)}") from error
    known = ", ".join([*DELIMITERS, *JSON_LINES])
    raise UserError(f"{path.name} has the suffix {suffix!r}; known are {known} (each also with .gz) and .parquet")


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


def one_line(error: BaseException, limit: int = 300) -> str:
    """Returns what the error says as one line of at most `limit` characters."""
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _open(path: Path) -> pa.NativeFile:
    return pa.input_stream(path, compression="gzip" if path.suffix.lower() == ".gz" else None)


def _read_csv(path: Path, columns: list[str], delimiter: str, quote: str | None, skip: int) -> pa.Table:
    for key, character in (("delimiter", delimiter), ("quote", quote)):
        if character is not None and not (len(character) == 1 and character.isascii()):
            raise UserError(f"data.{key} is {character!r}; it must be one ASCII character")

    def read(threads: bool, only: list[str]) -> pa.Table:
        return pa.csv.read_csv(
            _open(path),
            pa.csv.ReadOptions(use_threads=threads, block_size=BLOCK, skip_rows_after_names=skip),
            pa.csv.ParseOptions(delimiter=delimiter, quote_char=quote or False, newlines_in_values=quote is not None),
            pa.csv.ConvertOptions(
                check_utf8=False,
                column_types=dict.fromkeys(only, pa.large_binary()),
                include_columns=only,
            ),
        )

    try:
        return read(True, columns)
    except pa.ArrowKeyError:
        require_columns(columns, read(True, []).schema.names, path.name)
        raise
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            raise UserError(f"{path.name} has no rows") from error
        if "straddling" in str(error):
            raise UserError(f"{path.name} has a row of more than {BLOCK >> 20} MiB: is a quote not closed?") from error
    try:  # only one thread knows the number of the row it stumbles over
        return read(False, columns)
    except pa.ArrowInvalid as error:
        fault = re.match(r"CSV parse error: Row #(\d+): (.*)", one_line(error))
        if fault is None:
            raise
        row = int(fault[1]) - 1 - skip  # Arrow counts the header and the rows skipped
        raise UserError(f"cannot read {path.name}: row {row}: {fault[2]}") from error


def _read_json(path: Path, text: str, columns: list[str]) -> pa.Table:
    def read(types: Mapping[str, pa.DataType] | None) -> pa.Table:
        schema, behaviour = (None, "infer") if types is None else (pa.schema(list(types.items())), "ignore")
        with _open(path) as stream:
            return pa.json.read_json(
                stream,
                pa.json.ReadOptions(block_size=BLOCK),
                pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=behaviour),
            )

    types: Mapping[str, pa.DataType] | None = dict.fromkeys(columns, TEXT)
    fault = None
    while types is not None and types[text] == TEXT:
        try:
            table = read(types)
        except pa.ArrowInvalid as error:
            fault = fault or error
            types = _retyped(types, str(error), read)
            continue
        # A column that no row has comes back as nulls.
        if len(table) and any(table[column].null_count == len(table) for column in columns):
            require_columns(columns, read(None).schema.names, path.name)
        return table
    if "Empty JSON" in str(fault):
        raise UserError(f"{path.name} has no rows") from fault
    raise UserError(_json_fault(path, text, columns) or f"cannot read {path.name}: {fault}") from fault


def _retyped(
    types: Mapping[str, pa.DataType], complaint: str, read: Callable[[Mapping[str, pa.DataType]], pa.Table]
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
                read({column: kind})
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


def _read_parquet(path: Path, columns: list[str]) -> pa.Table:
    with pa.parquet.ParquetFile(path) as file:
        require_columns(columns, file.schema_arrow.names, path.name)
        return file.read(columns=columns)
