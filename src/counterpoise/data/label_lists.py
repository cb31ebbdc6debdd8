"""Lists of labels written as text, such as `['a', 'b']`, and vectors of 0 and 1 that stand for labels."""

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from counterpoise.data.arrow_columns import Column, build_lists, cast_to_text, flatten_lists, is_list, is_text, to_array
from counterpoise.errors import UserError

ITEM = re.compile(
    r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|True|False|None|true|false|null"""
)
LIST_FIELD = re.compile(rf"\[\s*(?:(?:{ITEM.pattern})(?:\s*,\s*(?:{ITEM.pattern}))*\s*,?)?\s*\]")
STRING = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
QUOTED_FIELD = re.compile(rf"[({{]\s*{STRING}(?:\s*,\s*{STRING})*\s*,?\s*[)}}]")
VECTOR_FIELD = re.compile(r"[01](?:\.0*)?(?:[\s,;|]+[01](?:\.0*)?)+")
BRACKETS = ("[]", "()", "{}")
ARRAY_PREFIXES = ("array([", "tensor([")
"""Start of arrays of NumPy and PyTorch that were written as text."""
CONSTANTS = {"true": True, "false": False, "null": None}
AS_NAME = "or data.task=single_label if each field is the name of one class"
VECTOR_VALUES = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1, "-1": -1, "-1.0": -1}


def parse_list_fields(text: Column, separator: str | None, where: str) -> pa.ListArray | None:
    """Parse a column whose fields are lists as Python or JSON write them.

    Args:
        text: large_string [N].
        separator: The setting `data.separator`.
        where: Start of error messages: file and column.

    Returns:
        Lists of text, whole numbers, floats or bools, [N]; a blank field is null. None if the fields are not lists.

    Raises:
        UserError: Some fields are lists and others are not, a list cannot be parsed, or the fields are vectors.
    """
    trimmed = to_array(pc.utf8_trim_whitespace(text)).dictionary_encode()
    fields = trimmed.dictionary.to_pylist()
    some = [field for field in fields if field]

    def refuse(field: str, why: str) -> UserError:
        row = pc.index(trimmed.indices, fields.index(field)).as_py() + 1
        return UserError(f"{where}: row {row} holds {_shorten(field)}, {why}")

    if separator is None and some and all(map(VECTOR_FIELD.fullmatch, some)):
        raise refuse(some[0], f"a vector: set data.separator and data.label_names, {AS_NAME}")
    bracketed = [
        field
        for field in some
        if (field[0] + field[-1] in BRACKETS and len(field) > 1) or field.startswith(ARRAY_PREFIXES)
    ]
    parsed = {field: _parse(field) for field in bracketed}
    lists = [field for field, items in parsed.items() if items is not None]
    if not bracketed or (not lists and len(bracketed) < len(some)):
        return None
    if separator is not None:
        if lists:
            raise refuse(lists[0], "a list: remove data.separator")
        return None
    if len(bracketed) < len(some):
        raise refuse(lists[0], f"a list, and other rows hold no list: write all rows as lists, {AS_NAME}")
    if len(lists) < len(some):
        broken = next(field for field in bracketed if parsed[field] is None)
        raise refuse(broken, f"which is not a list such as ['a', 'b']: correct it, {AS_NAME}")
    kinds = {type(item) if isinstance(item, str | bool) else float for field in lists for item in _items(parsed[field])}
    if len(kinds) > 1:
        odd = next(field for field in lists if any(not isinstance(item, str) for item in _items(parsed[field])))
        raise refuse(odd, f"and other rows hold items of another type: use one type, {AS_NAME}")
    return pa.array([parsed.get(field) for field in fields]).take(trimmed.indices)


def decode_vectors(column: Column, label_names: Sequence[str] | None, where: str) -> pa.ListArray | None:
    """Return the labels of a column of vectors of 0 and 1, or None if the column holds other lists.

    Lists are vectors if they hold only 0 and 1, -1 and 1, or bools, and repeat a value in a row or have one
    length (of at least two, if they hold text).

    Args:
        column: Lists, [N].
        label_names: Name of each position. None: vectors are refused.
        where: Start of error messages: file and column.

    Raises:
        UserError: The column holds vectors, and `label_names` is missing or has another length.
    """
    rows, values = flatten_lists(column)
    if is_list(values.type):
        raise UserError(f"{where} holds lists of lists; it must hold lists of text or whole numbers")
    text = is_text(values.type)
    encoded = to_array(cast_to_text(values, where) if text else values).dictionary_encode(null_encoding="encode")
    distinct = encoded.dictionary.to_pylist()
    codes = [None if value is None else VECTOR_VALUES.get(_plain(value)) for value in distinct]
    if len(distinct) > len(VECTOR_VALUES) or not any(code is not None for code in codes):
        return None
    if any(code is None and value is not None for code, value in zip(codes, distinct, strict=True)):
        return None
    numbers = np.array([code or 0 for code in codes])[encoded.indices.to_numpy()]
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    one_length, longest = len(set(lengths[lengths > 0])) == 1, int(lengths.max())
    sums = np.bincount(rows, weights=numbers, minlength=len(column))
    repeated = longest > 2 or bool(np.isin(sums[lengths == 2], [0, 2, -2]).any())
    if not (repeated or pa.types.is_boolean(values.type) or (one_length and (longest > 1 or not text))):
        return None
    if label_names is None:
        example = [_text_of(value) if text else value for value in column[int(lengths.argmax())].as_py()]
        raise UserError(
            f"{where} holds vectors such as {_shorten(str(example))}: set data.label_names to the names of their "
            f"{longest} positions"
        )
    if text and {_plain(value) for value in distinct if value is not None} <= set(label_names):
        return None
    if -1 in numbers or None in distinct:
        raise UserError(f"{where} holds vectors with {'-1' if -1 in numbers else 'null'}; they must hold 0 and 1")
    valid = pc.is_valid(column).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(valid & (lengths != len(label_names)))
    if len(wrong):
        raise UserError(
            f"{where}: row {wrong[0] + 1} holds a vector of {lengths[wrong[0]]} values, and data.label_names has "
            f"{len(label_names)} names"
        )
    positions = np.tile(np.arange(longest), int(valid.sum()))
    names = pa.array(label_names, pa.string()).take(pa.array(positions[numbers == 1]))
    return build_lists(rows[numbers == 1], names, len(column))


def _parse(field: str) -> list[Any] | None:
    """Return the items of a list as Python or JSON write it, or None."""
    if not (LIST_FIELD.fullmatch(field) or QUOTED_FIELD.fullmatch(field)):
        return None
    items = []
    for item in ITEM.findall(field):
        if item in CONSTANTS:
            items.append(CONSTANTS[item])
        else:
            try:
                items.append(json.loads(item) if item[0] == '"' else ast.literal_eval(item.lstrip("+")))
            except (ValueError, SyntaxError):
                return None
    return items


def _items(items: Sequence[Any] | None) -> list[Any]:
    """Return the items that are not null."""
    return [item for item in items or () if item is not None]


def _plain(value: Any) -> str:
    return _text_of(value).strip().lower()


def _text_of(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _shorten(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
