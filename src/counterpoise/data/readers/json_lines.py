"""Reading of JSON: one object per line, or one array of objects."""

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from counterpoise.data.arrow_cache import TableSink
from counterpoise.data.readers import files
from counterpoise.data.readers.encoding import TextFile
from counterpoise.data.readers.files import require_columns_of_schema, reraise_as_user_error
from counterpoise.errors import UserError, one_line

SUFFIXES = (".jsonl", ".ndjson", ".json")
MAX_ARRAY = 2**29
"""Largest size of a JSON array in bytes. It is parsed in memory."""
NOT_AN_OBJECT = re.compile(rb"^[ \t\r]*[^{ \t\r\n]", re.MULTILINE)
"""Start of a line that is not an object."""
ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
"""An escape of JSON; `lone` is a surrogate without its other half."""
MAX_EXACT = 2**53
"""Whole numbers from here on are not exact in float64."""
TEXT = pa.large_binary()
LIST = pa.list_(TEXT)
TYPES = {"number": pa.int64(), "boolean": pa.bool_(), "array": LIST}
"""Arrow type for each JSON type in Arrow's messages. Arrow's own inference would turn "2020-01-01" into a date."""


def read_json(file: TextFile, text: str, columns: list[str], keep: TableSink) -> pa.Table:
    """Read columns of JSON lines or of a JSON array as large_binary, bool, int64 or float64, or lists of these.

    All columns are first read as text. When Arrow reports another type, the file is read again with that type.

    Args:
        file: The file.
        text: Column of the text. It must hold text.
        columns: Columns to read, `text` included.
        keep: Receives the batches.

    Raises:
        UserError: A column is missing, mixes types, or a line is not a JSON object; the message names the row.
    """

    def opened() -> pa.NativeFile:
        stream = file.open() if array is None else pa.input_stream(array)
        return pa.lib.TransformInputStream(stream, _EncodeSurrogates()) if surrogates else stream

    surrogates = False
    with reraise_as_user_error(file.path):
        array = _array_as_lines(file) if _first_character(file) == b"[" else None
        # Arrow crashes where the first line of a block is null.
        if array is None and _has_other_lines(file):
            raise UserError(_find_bad_json_row(file.name, opened(), text, columns) or f"cannot read {file.name}")

    def read(types: Mapping[str, pa.DataType] | None) -> pa.RecordBatchReader:
        schema, behaviour = (None, "infer") if types is None else (pa.schema(list(types.items())), "ignore")
        with reraise_as_user_error(file.path, (OSError,)):
            return pa.json.open_json(
                opened(),
                pa.json.ReadOptions(block_size=files.BLOCK),
                pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=behaviour),
            )

    types: Mapping[str, pa.DataType] | None = dict.fromkeys(columns, TEXT)
    fault = None
    while types is not None and types[text] == TEXT:
        try:
            table = keep(_without_rounding(read(types), file.name))
        except pa.ArrowInvalid as error:
            if "surrogate" in str(error) and not surrogates:
                surrogates = True
                continue
            fault = fault or error
            types = _next_types(types, str(error), read)
            continue
        # Arrow returns a missing column as nulls: check the first block for its name.
        if len(table) and any(table[column].null_count == len(table) for column in columns):
            require_columns_of_schema(columns, read(None).schema, file.name)
        return table
    if "Empty JSON" in str(fault):
        raise UserError(f"{file.name} has no rows") from fault
    message = _find_bad_json_row(file.name, opened(), text, columns)
    raise UserError(message or f"cannot read {file.name}: {fault}") from fault


def json_names(file: TextFile) -> list[str]:
    """Return the keys of all objects of a file, in the order of their first use. Lines that are no objects have none.

    Arrow infers the columns of the first block only.
    """
    names: dict[str, None] = {}
    stream = file.open() if _first_character(file) != b"[" else pa.input_stream(_array_as_lines(file))
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="\n") as lines:
        for line in lines:
            with suppress(ValueError, RecursionError):  # `read_json` reports the row.
                found = json.loads(line)
                names.update(dict.fromkeys(found) if isinstance(found, dict) else {})
    return list(names)


class _EncodeSurrogates:
    """Replaces the escapes of surrogates without their other half by bytes that are not UTF-8.

    Arrow refuses the whole file for one of them. The rows are then treated like other rows that are not UTF-8.
    """

    def __init__(self) -> None:
        self._rest = b""

    def __call__(self, block: pa.Buffer) -> bytes:
        data = self._rest + bytes(block)
        end = data.rfind(b"\n") + 1 if len(block) else len(data)
        self._rest = data[end:]
        return ESCAPE.sub(lambda found: b"\xed\xa0\x80" if found["lone"] else found[0], data[:end])


def _without_rounding(reader: pa.RecordBatchReader, name: str) -> pa.RecordBatchReader:
    """Return the batches; raise UserError at numbers that are read as float64 and are not exact there."""
    if not any(kind in (pa.float64(), pa.list_(pa.float64())) for kind in reader.schema.types):
        return reader

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            for column, values in zip(batch.schema.names, batch.columns, strict=True):
                numbers = values.flatten() if pa.types.is_list(values.type) else values
                if pa.types.is_float64(numbers.type) and (pc.max(pc.abs(numbers)).as_py() or 0) >= MAX_EXACT:
                    raise UserError(
                        f"{name}: column {column!r} holds whole numbers of more than 15 digits that would be rounded, "
                        "since others have fractions or do not fit into 64 bits: write them as text, in quotes"
                    )
            yield batch

    return pa.RecordBatchReader.from_batches(reader.schema, batches())


def _first_character(file: TextFile) -> bytes:
    """Return the first byte of a file that is not white space; nothing for an empty file."""
    stream = file.open()
    while block := stream.read(2**16):
        if start := block.removeprefix(b"\xef\xbb\xbf").lstrip():
            return start[:1]
    return b""


def _has_other_lines(file: TextFile) -> bool:
    """Return whether a line is not blank and does not start with "{"."""
    stream, rest = file.open(), b""
    while block := stream.read(files.BLOCK):
        block = rest.removeprefix(b"\xef\xbb\xbf") + block if rest else block.removeprefix(b"\xef\xbb\xbf")
        whole = block.rfind(b"\n") + 1
        if NOT_AN_OBJECT.search(block, 0, whole):
            return True
        rest = block[whole:]
    return bool(NOT_AN_OBJECT.search(rest))


def _array_as_lines(file: TextFile) -> pa.Buffer:
    """Return the objects of a JSON array as JSON lines."""

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError(f"an object has the same key twice: {', '.join(name for name, _ in pairs)}")
        return found

    stream, parts = file.open(), []
    while part := stream.read(files.BLOCK):
        parts.append(part)
        if len(parts) * files.BLOCK > MAX_ARRAY:
            raise UserError(
                f"{file.name} is a JSON array of more than {MAX_ARRAY >> 20} MiB: convert it to JSON lines, one object "
                "per line"
            )
    try:
        records = json.loads(b"".join(parts).decode("utf-8-sig"), object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read {file.name}: it is not a valid JSON array: {one_line(error)}") from error
    for row, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise UserError(
                f"cannot read {file.name}: row {row} is a {type(record).__name__}; the array must hold objects"
            )
    return pa.py_buffer("".join(json.dumps(record) + "\n" for record in records).encode())


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


def _find_bad_json_row(name: str, stream: pa.NativeFile, text: str, columns: list[str]) -> str:
    """Return an error message for the first bad row, or "". Arrow does not count rows across blocks."""
    seen: dict[str, type] = {}
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="\n") as lines:
        for row, line in enumerate((line for line in lines if line.strip()), start=1):
            where = f"cannot read {name}: row {row}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                return f"{where} is not JSON; each line must hold one object: {one_line(error)}"
            if not isinstance(record, dict):
                return f"{where} is a {type(record).__name__}; each line must hold one object"
            for column in columns:
                value = record.get(column)
                if isinstance(value, dict) or (column == text and not isinstance(value, str | None)):
                    return f"{where}: column {column!r} holds {type(value).__name__}, not text"
                inside = value if isinstance(value, list) else []
                for part, each in [(column, value), *((f"{column}[]", each) for each in inside)]:
                    kind = int if isinstance(each, float) else type(each)
                    if part != column and kind in (list, dict):
                        return f"{where}: column {column!r} holds a list of {kind.__name__}s, not of text"
                    if each is not None and seen.setdefault(part, kind) is not kind:
                        what, above = kind.__name__, seen[part].__name__
                        of = "" if part == column else "a list of "
                        return f"{where}: column {column!r} holds {of}{what}, in the rows above {of}{above}"
    return ""
