"""Conversion of Arrow columns of any type to text, numbers and lists."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from counterpoise.errors import UserError

Column: TypeAlias = pa.Array | pa.ChunkedArray

NOT_UTF8, BLANK = 1, 2
"""Fault codes of `find_text_faults`."""
INVISIBLE = r"^[\s\p{Z}\p{Cc}\p{Cf}\x{034F}\x{115F}\x{1160}\x{17B4}\x{17B5}\x{2800}\x{3164}\x{FE00}-\x{FE0F}\x{FFA0}]*$"
"""Texts without a visible character: spaces, controls, zero-width characters, fillers and variation selectors."""


def cast_to_text(column: Column, where: str) -> Column:
    """Cast text, whole numbers and bools to large_binary.

    Floats must be whole: pandas stores integers with nulls as floats.

    Args:
        column: Any column.
        where: Start of the error message: file and column.

    Raises:
        UserError: The column has another type, or a float that is not whole.
    """
    column = _plain(column)
    if is_text(column.type):
        return column.cast(pa.large_binary())
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
        try:
            column = column.cast(pa.int64())
        except pa.ArrowInvalid as error:
            broken = column.filter(pc.not_equal(pc.floor(column), column))
            value = broken[0] if len(broken) else pc.max(pc.abs(column))
            raise UserError(f"{where} holds {value}; it must hold text, whole numbers or bools") from error
    if not (pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)):
        raise UserError(f"{where} holds {column.type}; it must hold text, whole numbers or bools")
    return column.cast(pa.large_string()).cast(pa.large_binary())


def parse_numbers(column: Column) -> np.ndarray:
    """Return the column as float64 [N]. Text is parsed. Everything that is not a number is nan."""
    column = _plain(column)
    if is_text(column.type):
        text, _ = decode_utf8(column.cast(pa.large_binary()))
        text = pc.utf8_trim_whitespace(text)
        try:
            column = text.cast(pa.float64())
        except pa.ArrowInvalid:
            column = pa.array([_number(value) for value in text.to_pylist()])
    try:
        return pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return np.full(len(column), np.nan)


def decode_utf8(column: Column, block: int = 1024) -> tuple[Column, np.ndarray]:
    """Decode a large_binary column.

    Args:
        column: large_binary [N].
        block: Rows that are checked at a time if the column is not valid UTF-8.

    Returns:
        large_string [N], empty where the bytes are not valid UTF-8, and bool [N], true for these rows.
    """
    bad = np.zeros(len(column), dtype=bool)
    try:
        return column.cast(pa.large_string()), bad
    except pa.ArrowInvalid:
        for start in range(0, len(column), block):
            part = column.slice(start, block)
            try:
                part.cast(pa.large_string())
            except pa.ArrowInvalid:
                bad[start : start + block] = [not _decodes(value) for value in part.to_pylist()]
    empty = pa.scalar(b"", pa.large_binary())
    return pc.if_else(pa.array(bad), empty, column).cast(pa.large_string()), bad


def find_text_faults(texts: Column) -> np.ndarray:
    """Return the fault of each text of a large_binary column: NOT_UTF8, BLANK or 0, uint8 [N]."""
    faults = [np.empty(0, np.uint8)]
    for chunk in chunks(texts):
        text, bad = decode_utf8(chunk)
        faults.append(np.where(bad, NOT_UTF8, np.where(is_blank_text(text), BLANK, 0)).astype(np.uint8))
    return np.concatenate(faults)


def chunks(column: Column) -> list[pa.Array]:
    """Return the arrays of a column."""
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def take_rows(column: Column, rows: np.ndarray) -> pa.Array:
    """Return the values of these rows, in the given order.

    Unlike `ChunkedArray.take`, this does not copy the whole column into one array.

    Args:
        column: Any column.
        rows: Row numbers, int [M].
    """
    parts = chunks(column)
    if len(parts) == 1:
        return parts[0].take(pa.array(rows))
    ends = np.cumsum([len(part) for part in parts])
    where = np.searchsorted(ends, rows, side="right")
    order = np.argsort(where, kind="stable")
    taken = [pa.array([], column.type)]
    for number in np.unique(where):
        of_part = rows[where == number] - (ends[number] - len(parts[number]))
        taken.append(parts[number].take(pa.array(of_part)))
    places = np.empty(len(rows), np.int64)
    places[order] = np.arange(len(rows))
    return pa.concat_arrays(taken).take(pa.array(places))


def is_blank(column: Column) -> np.ndarray:
    """Return bool [N]: true for null, empty and whitespace-only values."""
    empty = pc.or_(pc.equal(pc.binary_length(column), 0), pc.utf8_is_space(column))
    return pc.fill_null(empty, True).to_numpy(zero_copy_only=False)


def is_blank_text(texts: Column) -> np.ndarray:
    """Return bool [N]: true for blank values, and for texts of whitespace, control and invisible characters alone."""
    invisible = pc.match_substring_regex(texts, INVISIBLE)
    return is_blank(texts) | pc.fill_null(invisible, True).to_numpy(zero_copy_only=False)


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds text or only nulls."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests: tuple[Callable[[pa.DataType], bool], ...] = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_binary_view,
        pa.types.is_null,
    )
    return any(test(kind) for test in tests)


def is_list(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds lists."""
    tests: tuple[Callable[[pa.DataType], bool], ...] = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return any(test(kind) for test in tests)


def flatten_lists(column: Column) -> tuple[np.ndarray, Column]:
    """Flatten a column of lists. A null holds no elements.

    Returns:
        The row of each element, int64 [M], and the elements, [M].
    """
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(column)), lengths), pc.list_flatten(column)


def build_lists(rows: np.ndarray, values: Column, size: int) -> pa.ListArray:
    """Build a list array from its elements. Inverse of `flatten_lists`.

    Args:
        rows: Row of each element, int [M], ascending.
        values: Elements, [M].
        size: Number of rows.
    """
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=size))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), to_array(values))


def to_array(column: Column) -> pa.Array:
    """Return the column as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def format_rows(rows: np.ndarray, noun: str = "row") -> str:
    """Format row numbers: "row 3", or "rows 1, 2, 3, 4, 5 and 12 more"."""
    first = ", ".join(str(row) for row in rows[:5])
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return f"{noun}{'' if len(rows) == 1 else 's'} {first}{more}"


def _plain(column: Column) -> Column:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _decodes(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _number(value: str | None) -> float | None:
    try:
        return float(value or "nan")
    except ValueError:
        return None


def only_numbers(texts: Column) -> bool:
    """Return whether all texts are numbers, such as the ratings of a wrong column. False for no texts."""
    pattern = r"^\s*[-+]?[\d.,]*\d[\d.,]*([eE][-+]?\d+)?\s*%?\s*$"

    def numbers(part: Column) -> bool:
        return bool(pc.all(pc.match_substring_regex(part.cast(pa.large_string()), pattern)).as_py())

    # The first texts nearly always decide.
    return len(texts) > 0 and numbers(texts[:1000]) and numbers(texts)
