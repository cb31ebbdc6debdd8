"""Reading of JSON lines: one object per line."""

import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.json

from counterpoise.data.arrow_cache import TableSink
from counterpoise.data.readers import files
from counterpoise.data.readers.files import one_line, open_file, require_columns_of_schema, reraise_as_user_error
from counterpoise.errors import UserError

SUFFIXES = (".jsonl", ".ndjson", ".json")
TEXT = pa.large_binary()
LIST = pa.list_(TEXT)
TYPES = {"number": pa.int64(), "boolean": pa.bool_(), "array": LIST}
"""Arrow type for each JSON type in Arrow's messages. Arrow's own inference would turn "2020-01-01" into a date."""


def read_json_lines(path: Path, text: str, columns: list[str], keep: TableSink) -> pa.Table:
    """Read columns of JSON lines as large_binary, bool, int64 or float64, or lists of these.

    All columns are first read as text. When Arrow reports another type, the file is read again with that type.

    Args:
        path: The file. A name that ends in .gz is decompressed.
        text: Column of the text. It must hold text.
        columns: Columns to read, `text` included.
        keep: Receives the batches.

    Raises:
        UserError: A column is missing, mixes types, or a line is not a JSON object; the message names the row.
    """

    def read(types: Mapping[str, pa.DataType] | None) -> pa.RecordBatchReader:
        schema, behaviour = (None, "infer") if types is None else (pa.schema(list(types.items())), "ignore")
        with reraise_as_user_error(path, (OSError,)):
            return pa.json.open_json(
                open_file(path),
                pa.json.ReadOptions(block_size=files.BLOCK),
                pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=behaviour),
            )

    types: Mapping[str, pa.DataType] | None = dict.fromkeys(columns, TEXT)
    fault = None
    while types is not None and types[text] == TEXT:
        try:
            table = keep(read(types))
        except pa.ArrowInvalid as error:
            fault = fault or error
            types = _next_types(types, str(error), read)
            continue
        # Arrow returns a missing column as nulls: check the first block for its name.
        if len(table) and any(table[column].null_count == len(table) for column in columns):
            require_columns_of_schema(columns, read(None).schema, path.name)
        return table
    if "Empty JSON" in str(fault):
        raise UserError(f"{path.name} has no rows") from fault
    raise UserError(_find_bad_json_row(path, text, columns) or f"cannot read {path.name}: {fault}") from fault


def _next_types(
    types: Mapping[str, pa.DataType],
    complaint: str,
    read: Callable[[Mapping[str, pa.DataType]], pa.RecordBatchReader],
) -> Mapping[str, pa.DataType] | None:
    """Return the types to read with after a type error of Arrow, or None if no types fit."""
    if found := re.search(r"Column\(/(.*?)(/\[\])?\) changed from \w+ to (\w+) in row", complaint, re.DOTALL):
        column, inside, kind = found[1], found[2], TYPES.get(found[3])
        # The type of a column changes once, from text: a column of mixed types is refused.
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


def _find_bad_json_row(path: Path, text: str, columns: list[str]) -> str:
    """Return an error message for the first bad row, or "". Arrow does not count rows across blocks."""
    seen: dict[str, type] = {}
    with io.TextIOWrapper(open_file(path), encoding="utf-8-sig", errors="replace", newline="\n") as lines:
        for row, line in enumerate((line for line in lines if line.strip()), start=1):
            where = f"cannot read {path.name}: row {row}"
            try:
                record = json.loads(line)
            except ValueError as error:
                return f"{where} is not JSON; each line must hold one object: {one_line(error)}"
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
