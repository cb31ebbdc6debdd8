"""Labels of the rows of a table: one label, a list, a field to split, or one 0/1 column per label."""

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from counterpoise.data.arrow_columns import (
    Column,
    build_lists,
    cast_to_text,
    chunks,
    decode_utf8,
    flatten_lists,
    format_rows,
    is_blank,
    is_list,
    is_text,
)
from counterpoise.data.label_lists import decode_vectors, parse_list_fields
from counterpoise.errors import UserError

log = logging.getLogger(__name__)

TASKS = ("single_label", "multi_label")
NOT_UTF8 = "with a label that is not UTF-8"


def read_labels(
    table: pa.Table,
    label: str | Sequence[str],
    separator: str | None,
    task: str | None,
    shown: str,
    label_names: Sequence[str] | None = None,
) -> tuple[pa.Array, dict[str, np.ndarray]]:
    """Return the labels of each row and the rows that cannot be used.

    Whitespace around a label, blank labels and duplicates within a row are removed. Duplicates are logged as a warning.
    Fields that are lists as Python or JSON write them are parsed, unless `task` is "single_label".

    Args:
        table: Table with the label columns.
        label: One column, or several columns of 0 and 1 that are a label each.
        separator: Separator of the labels in the field of one column. None: the field is one label.
        task: Task that the labels must have, or None.
        shown: Name of the file in messages.
        label_names: Name of each position of vectors of 0 and 1. None: vectors are refused.

    Returns:
        The labels: string [N] (single-label), or list<string> [N] (multi-label; an empty list, an empty field and a
        null are a row without labels). And the unusable rows by reason, bool [N].

    Raises:
        UserError: The labels have another task or an invalid type.
    """
    unreadable = np.zeros(len(table), bool)
    if isinstance(label, str) and task != "single_label" and is_text(table[label].type):
        where = f"{shown}: column {label!r} (data.label)"
        text, unreadable = decode_utf8(cast_to_text(table[label], where))
        lists = parse_list_fields(text, separator, where)
        if lists is not None:
            table = table.set_column(table.column_names.index(label), label, lists)
    several = _multi_label_reason(table, label, separator)
    if task == "single_label" and several:
        raise UserError(f"data.task=single_label, but {several}: rows have any number of labels. Remove data.task")
    if task == "multi_label" and not several:
        raise UserError(
            f"data.task=multi_label, but column {label!r} of {shown} holds one label per row: set data.separator where "
            "a field holds several, or use a column of lists, or name several columns of 0 and 1 in data.label"
        )
    if not isinstance(label, str):
        return _from_indicator_columns(table, label, shown)
    column, where = table[label], f"{shown}: column {label!r} (data.label)"
    if is_list(column.type):
        bad = unreadable
    else:
        column, bad = decode_utf8(cast_to_text(column, where))
        if separator is None:
            trimmed = [pc.utf8_trim_whitespace(chunk).cast(pa.string()) for chunk in chunks(column)]
            return pa.concat_arrays(trimmed), {NOT_UTF8: bad, "without a label": is_blank(column)}
        column = pc.split_pattern(column, separator)
    vectors = decode_vectors(column, label_names, where)
    if vectors is not None:
        return vectors, {NOT_UTF8: bad}
    labels, unreadable_lists = _without_blanks_and_duplicates(column, where, shown)
    return labels, {NOT_UTF8: bad | unreadable_lists}


def task_of(labels: pa.Array) -> str:
    """Return the task of labels that `read_labels` returned."""
    return TASKS[is_list(labels.type)]


def rare_labels(labels: pa.Array, least: int) -> tuple[pa.Array, int]:
    """Return the labels with fewer than `least` rows, and the number of rows of the most frequent label."""
    counts = pc.value_counts(flatten_lists(labels)[1] if is_list(labels.type) else labels)
    rows = counts.field("counts").to_numpy()
    return counts.field("values").filter(pa.array(rows < least)), int(rows.max(initial=0))


def remove_labels(labels: pa.Array, unwanted: pa.Array) -> pa.Array:
    """Return lists of labels without the unwanted ones."""
    rows, values = flatten_lists(labels)
    keep = pc.invert(pc.is_in(values, unwanted))
    return build_lists(rows[keep.to_numpy(zero_copy_only=False)], values.filter(keep), len(labels))


def _without_blanks_and_duplicates(column: Column, where: str, shown: str) -> tuple[pa.Array, np.ndarray]:
    """Return the distinct labels of each row that are not blank, and the rows with a label that is not UTF-8.

    Args:
        column: Lists of labels, [N].
        where: Start of error messages: file and column.
        shown: Name of the file in warnings.
    """
    bad, labels, twice = np.zeros(len(column), bool), [], []
    starts = np.cumsum([0, *map(len, chunks(column))])
    for start, chunk in zip(starts, chunks(column), strict=False):
        rows, values = flatten_lists(chunk)
        values, wrong = decode_utf8(cast_to_text(values, where))
        bad[start + rows[wrong]] = True
        values = pc.utf8_trim_whitespace(values)
        some = ~is_blank(values)
        sets, again = _without_duplicates(rows[some], values.filter(pa.array(some)), len(chunk))
        labels.append(sets)
        twice.append(start + again + 1)
    if len(rows := np.concatenate(twice)):
        log.warning("%s: %d rows repeat a label, which counts once (%s)", shown, len(rows), format_rows(rows))
    return pa.concat_arrays(labels), bad


def _multi_label_reason(table: pa.Table, label: str | Sequence[str], separator: str | None) -> str:
    """Return why a row can have several labels, or ""."""
    if not isinstance(label, str):
        return f"data.label names {len(label)} columns"
    if not is_list(table[label].type):
        return f"data.separator={separator!r} splits column {label!r}" if separator else ""
    if separator:
        raise UserError(
            f"data.separator={separator!r}, but column {label!r} already holds lists: remove data.separator"
        )
    return f"column {label!r} holds lists"


def _from_indicator_columns(
    table: pa.Table, columns: Sequence[str], shown: str
) -> tuple[pa.Array, dict[str, np.ndarray]]:
    """Return the result of `read_labels` for 0/1 columns that are a label each."""
    empty = np.zeros(len(table), bool)
    rows, codes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for code, name in enumerate(columns):
        column = table[name]
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column).cast(pa.large_string())
        text, bad = decode_utf8(cast_to_text(column, f"{shown}: column {name!r} (data.label)"))
        text = pc.utf8_lower(pc.utf8_trim_whitespace(text))
        missing = is_blank(text) & ~bad
        one, zero = (_is_any_of(text, values) for values in (["1", "1.0", "true"], ["0", "0.0", "false"]))
        wrong = ~(one | zero | missing)
        if wrong.any():
            row = int(wrong.argmax())
            value = "what is not UTF-8" if bad[row] else repr(text[row].as_py())
            raise UserError(
                f"{shown}: row {row + 1}: column {name!r} holds {value}; where data.label names several columns "
                "each holds 0 or 1"
            )
        empty |= missing
        rows.append(np.flatnonzero(one))
        codes.append(np.full(int(one.sum()), code))
    where = np.concatenate(rows)
    order = np.argsort(where, kind="stable")
    names = pa.array(list(columns), pa.string()).take(pa.array(np.concatenate(codes)[order]))
    return build_lists(where[order], names, len(table)), {"without a 0 or 1 in some label column": empty}


def _is_any_of(text: pa.ChunkedArray, values: list[str]) -> np.ndarray:
    return pc.is_in(text, pa.array(values, text.type)).to_numpy()


def _without_duplicates(rows: np.ndarray, values: pa.Array, size: int) -> tuple[pa.ListArray, np.ndarray]:
    """Return the distinct labels of each of `size` rows, in order, and the rows with duplicates."""
    encoded = values.cast(pa.string()).dictionary_encode()
    pairs = rows * len(encoded.dictionary) + encoded.indices.to_numpy()
    first = np.sort(np.unique(pairs, return_index=True)[1])
    again = np.delete(rows, first)
    return build_lists(rows[first], values.cast(pa.string()).take(pa.array(first)), size), np.unique(again)
