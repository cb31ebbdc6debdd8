"""Structure of a CSV file, found before it is parsed: delimiter, names of the columns, unclosed quotation marks."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa

from counterpoise.data.arrow_columns import format_rows
from counterpoise.data.readers import files
from counterpoise.data.readers.encoding import TextFile
from counterpoise.data.readers.format import FileFormat
from counterpoise.errors import UserError
from counterpoise.formulas import is_number_text

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
SEP_LINE = re.compile(rb'(?:\xef\xbb\xbf)?"?sep=([^\r\n])"?\r?\n', re.IGNORECASE)
LINE_BREAK = re.compile(rb"\r\n|\r|\n")
SAMPLE = 2**20
"""Bytes at the start of a file that show which values its columns have."""


@dataclass(frozen=True)
class CsvStructure:
    """Structure of a CSV file.

    Args:
        delimiter: Delimiter of the fields.
        names: Names of the columns.
        first_lines: Lines to skip before the header: 1 if the first line is `sep=;`, else 0.
    """

    delimiter: str
    names: list[str]
    first_lines: int

    @classmethod
    def of(cls, file: TextFile, form: FileFormat, suffix: str) -> "CsvStructure":
        """Return the structure of a file.

        Raises:
            UserError: The file is empty, or `form.columns` are the names of its header in another order.
        """
        start = _read(file.open(), files.BLOCK)
        declared = SEP_LINE.match(start)
        delimiter = form.delimiter or (declared[1].decode(errors="replace") if declared else DELIMITERS[suffix])
        if declared:
            start = start[declared.end() :]
        first = next((row for row in _parse(start, delimiter, form) if row), None)
        if first is None:
            raise UserError(f"{file.name} has no rows")
        names = first if form.columns is None else [str(name) for name in form.columns]
        if names != first and sorted(names) == sorted(first):
            raise UserError(
                f"{file.name}: the first row holds the names of data.columns in another order: remove data.columns "
                "(--columns of a command)"
            )
        return cls(delimiter, names, 1 if declared else 0)

    def missing_column_hint(self, columns: Sequence[str], form: FileFormat) -> str:
        """Return what to do if the file lacks some of `columns`: another delimiter, or names for its columns."""
        for other in ",;\t|":
            split = [name.strip() for name in other.join(self.names).split(other)]
            if other != self.delimiter and len(self.names) == 1 and set(columns) <= set(split):
                return f" Set data.delimiter={other!r} (--delimiter of a command)"
        if form.columns is None and not set(columns) & set(self.names):
            return (
                " If the first row is not a header, name the columns: data.columns=[label,text] (--columns label,text "
                "of a command)"
            )
        return ""


def escape_hint(data: bytes, form: FileFormat) -> str:
    """Return the setting that reads quotation marks behind a backslash as text, if the data has some, else ""."""
    if form.quote is None or form.escape or b"\\" + form.quote.encode() not in data:
        return ""
    return f". If \\{form.quote} is a quotation mark inside a text, set 'data.escape=\\\\' (--escape '\\' of a command)"


def check_quotes(file: TextFile, structure: CsvStructure, form: FileFormat) -> list[str]:
    """Raise UserError if a quotation mark that is not closed merges rows.

    Arrow takes a quotation mark at the start of a field as the start of a quoted field, which ends at the next
    quotation mark, many lines below. A quoted field of several lines is refused if the file ends in it, if text follows
    its end, or if its lines are rows whose other columns have the usual values. A quotation mark inside a field is
    text.

    Args:
        file: The file.
        structure: Its structure.
        form: How the file is read.

    Returns:
        A notice of fields of one line whose closing quotation mark is followed by text, if there are any. Arrow removes
        these quotation marks.
    """
    if (quote := form.quote) is None:
        return []
    field, closed = _quoted_field(quote, form.escape, structure.delimiter)
    stream, buffer, place, lines, final = file.open(), b"", 0, 1, False
    looks_like_rows: Callable[[Sequence[bytes]], bool] | None = None
    followed: list[int] = []

    def line_of(place: int) -> int:
        return lines + buffer.count(b"\n", 0, place)

    def refuse(place: int, what: str) -> UserError:
        line = buffer[place:].partition(b"\n")[0]
        return UserError(
            f"{file.name}: line {line_of(place)}: the quotation mark {quote} opens a field that {what}. Close it, or "
            f"set data.quote=null (--quote '' of a command) if quotation marks are part of the text"
            f"{escape_hint(line, form)}"
        )

    while not final:
        block = stream.read(files.BLOCK)
        final = not block
        buffer, unfinished = buffer + block, False
        keep = buffer.rfind(b"\n") + 1
        while found := field.search(buffer, place):
            end = LINE_BREAK.search(buffer, found.end())
            if end is None and not final:
                keep, place, unfinished = buffer.rfind(b"\n", 0, found.start()) + 1, found.start(), True
                break
            place = found.end()
            if not found[2]:
                raise refuse(found.start(), "is never closed")
            ends_field = closed.match(buffer, place)
            if not ends_field and found[1].endswith(b"\\") and not form.escape:
                raise refuse(found.start(), "ends after a backslash, in front of other text")
            if not LINE_BREAK.search(found[1]):
                followed += [] if ends_field else [line_of(found.start())]
                continue
            if not ends_field:
                raise refuse(found.start(), "ends lines below, in front of other text")
            span = buffer[buffer.rfind(b"\n", 0, found.start()) + 1 : end.start() if end else len(buffer)]
            looks_like_rows = looks_like_rows or _row_test(file, structure, form)
            inside = [line for line in LINE_BREAK.split(span) if line]
            if looks_like_rows(inside):
                raise refuse(
                    found.start(),
                    f"contains {len(inside)} lines that look like rows (if they are one text: convert to JSON lines)",
                )
        if len(buffer) - keep > 2 * files.BLOCK:
            if unfinished:
                raise refuse(keep, f"is not closed within {2 * files.BLOCK >> 20} MiB")
            break  # Arrow reports rows that are too long.
        lines += buffer.count(b"\n", 0, keep)
        buffer, place = buffer[keep:], max(place - keep, 0)
    if not followed:
        return []
    return [
        f"{file.name}: text follows a closing quotation mark {quote}, which is removed, in "
        f"{format_rows(np.array(followed), 'line')}; set data.quote=null (--quote '' of a "
        "command) if quotation marks are part of the text"
    ]


def _quoted_field(quote: str, escape: str | None, delimiter: str) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """Return patterns of a quoted field, with its content and its closing mark as groups, and of what may follow it."""
    mark, escaping, between = (re.escape((each or "").encode()) for each in (quote, escape, delimiter))
    plain = rb"[^%b%b]*+" % (mark, escaping)
    inside_mark = rb"(?:%b%b%b)" % (mark, mark, rb"|%b(?s:.)" % escaping if escaping else b"")
    field = re.compile(rb"(?<![^%b\r\n])%b(%b(?:%b%b)*+)(%b?)" % (between, mark, plain, inside_mark, plain, mark))
    return field, re.compile(rb"[ \t]*(?:%b|[\r\n]|$)" % between)


def _row_test(file: TextFile, structure: CsvStructure, form: FileFormat) -> Callable[[Sequence[bytes]], bool]:
    """Return a function that tells whether the lines of a field are rows of the file.

    They are if all have the width of a row, and at least three quarters have the usual values of the columns that hold
    few different values or numbers.
    """
    width, usual = len(structure.names), dict[int, Callable[[str], bool]]()

    def columns_of(rows: Sequence[Sequence[str]]) -> list[list[str]]:
        return [[row[place].strip() for row in rows] for place in range(width)]

    def fields(line: bytes) -> list[str]:
        text = line.decode(errors="replace")
        if text.count(form.quote or "") % 2:
            return text.split(structure.delimiter)
        return next(iter(_parse(line, structure.delimiter, form)), [])

    parsed = []
    with suppress(csv.Error):  # The start may end in the middle of a long row.
        for row in islice(_parse(_read(file.open(), SAMPLE), structure.delimiter, form), 1, None):
            if len(row) == width:
                parsed.append(row)
    for place, values in enumerate(columns_of(parsed)):
        of_one_line = [value for value in values if "\n" not in value and "\r" not in value]
        if len(of_one_line) > len(values) / 2 and (test := _usual_value(of_one_line)):
            usual[place] = test

    delimiter = structure.delimiter.encode()

    def looks_like_rows(lines: Sequence[bytes]) -> bool:
        if width == 1 or any(line.count(delimiter) < width - 1 for line in lines):
            return False
        rows = [fields(line) for line in lines]
        if any(len(row) != width for row in rows):
            return False
        tests = usual
        if not tests and len(rows) > 5:  # The field contains most rows of the file: compare them with each other.
            found = {place: _usual_value(values) for place, values in enumerate(columns_of(rows[1:-1]))}
            tests = {place: test for place, test in found.items() if test}
        fitting = sum(all(test(row[place].strip()) for place, test in tests.items()) for row in rows)
        return bool(tests) and fitting >= max(2, 0.75 * len(rows))

    return looks_like_rows


def _usual_value(values: Sequence[str]) -> Callable[[str], bool] | None:
    """Return a test of the usual values of a column that holds numbers or few different values, else None."""
    values = [value for value in values if value]
    distinct = set(values)
    if distinct and len(distinct) <= len(values) / 2:
        return distinct.__contains__
    return is_number_text if len(values) > 1 and sum(map(is_number_text, values)) >= 0.95 * len(values) else None


def _parse(data: bytes, delimiter: str, form: FileFormat) -> Iterable[list[str]]:
    """Yield the rows at the start of the data. Invalid UTF-8 is replaced."""
    text = io.StringIO(data.decode("utf-8-sig", errors="replace"), newline="")
    if form.quote is None:
        return csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE, escapechar=form.escape)
    return csv.reader(text, delimiter=delimiter, quotechar=form.quote, escapechar=form.escape)


def _read(stream: pa.NativeFile, size: int) -> bytes:
    """Return up to `size` bytes. A decompressed stream may return fewer bytes than asked for."""
    parts, length = [], 0
    while length < size and (part := stream.read(size - length)):
        parts.append(part)
        length += len(part)
    return b"".join(parts)
