"""Usable rows of a table: their validation, and the resulting split."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from counterpoise.data.arrow_cache import filter_column, release_pages, text_digest
from counterpoise.data.arrow_columns import (
    BLANK,
    NOT_UTF8,
    Column,
    cast_to_text,
    chunks,
    decode_utf8,
    find_text_faults,
    format_rows,
    is_blank,
    is_list,
    is_text,
    parse_numbers,
    to_array,
)
from counterpoise.data.dropped_rows import HEADER, DroppedRows, repeated_headers
from counterpoise.data.labels import read_labels, task_of
from counterpoise.data.readers import TEXT_FAULTS, notices_of
from counterpoise.data.table_format import TableFormat
from counterpoise.data.text_columns import join_columns
from counterpoise.errors import UserError

log = logging.getLogger(__name__)

MAX_WEIGHT = 1e15
"""Largest instance weight, and the reciprocal of the smallest. Sums and squares of such weights are exact enough."""


@dataclass(frozen=True)
class Split:
    """Usable rows of one file or of one split of a dataset, N rows in their order.

    Args:
        name: "train", "validation" or "test".
        file: Name of the file in messages.
        rows: Row numbers in the file, int64 [N]. They start at 1; the header does not count.
        ids: string [N]. The row number where a row has no id. None without an id column.
        texts: large_string [N], unchanged.
        labels: string [N], or list<string> [N] for multi-label data; without surrounding whitespace, blanks and
            duplicates within a row.
        dropped: Number of dropped rows by reason.
        groups: string [N]. Rows of a group stay together when splits are made. None without a group column.
        weights: Instance weights, float64 [N], not negative and not all 0. None without a weight column.
        label_names: Names of all labels that the source declares, whether or not a row has them. None: unknown.
        notices: What the user should know of the file, one line each: its encoding, and dropped rows.
        digest: Digest of the texts if they are mapped from the cache, else None.
        columns: Number of columns whose texts are joined in `texts`. See `data.text_columns`.
    """

    name: str
    file: str
    rows: np.ndarray
    ids: pa.Array | None
    texts: pa.ChunkedArray
    labels: pa.Array
    dropped: dict[str, int]
    groups: pa.Array | None = None
    weights: np.ndarray | None = None
    label_names: tuple[str, ...] | None = None
    notices: tuple[str, ...] = ()
    digest: str | None = None
    columns: int = 1

    @property
    def task(self) -> str:
        """The task: "single_label" or "multi_label"."""
        return task_of(self.labels)

    @property
    def noun(self) -> str:
        """The word for the labels in messages: "classes" or "labels"."""
        return "classes" if self.task == "single_label" else "labels"

    @property
    def group_numbers(self) -> np.ndarray | None:
        """Group number of each row, int64 [N], or None."""
        if self.groups is None:
            return None
        return self.groups.dictionary_encode().indices.to_numpy().astype(np.int64)

    def filter(self, kept: np.ndarray) -> "Split":
        """Return the rows for which `kept` (bool [N]) is true."""
        mask = pa.array(kept)
        texts, digest = filter_column(self.texts, kept, self.digest)
        return replace(
            self,
            rows=self.rows[kept],
            ids=None if self.ids is None else self.ids.filter(mask),
            texts=texts,
            digest=digest,
            labels=self.labels.filter(mask),
            groups=None if self.groups is None else self.groups.filter(mask),
            weights=None if self.weights is None else self.weights[kept],
        )

    def __len__(self) -> int:
        return len(self.rows)


def usable_rows(source: TableFormat, name: str, shown: str, table: pa.Table, file: str) -> Split:
    """Return the usable rows of a table as a split.

    Args:
        source: Meaning of the columns.
        name: Name of the split.
        shown: Name of the file in messages.
        table: Table with all needed columns.
        file: Value of `Split.file`.

    Raises:
        UserError: No usable row remains, too many rows are dropped, a column has an invalid type, or a row is refused
            (`on_bad_row="error"`).
    """
    if not len(table):
        raise UserError(f"{shown} has no rows")
    bad_rows = DroppedRows(shown, len(table))
    bad_rows.drop(repeated_headers(table, source.needed(name)), HEADER)
    labels, unusable = read_labels(table, source.label, source.separator, source.task, shown, source.names)
    for reason, bad in unusable.items():
        bad_rows.drop(bad, reason)
    texts, digest = read_texts(table, source.text_columns, shown, "data.text")
    known = TEXT_FAULTS in table.column_names and len(source.text_columns) == 1
    faults = table[TEXT_FAULTS].to_numpy() if known else find_text_faults(texts)
    bad_rows.drop(faults == NOT_UTF8, "with a text that is not UTF-8")
    bad_rows.drop(faults == BLANK, "without a text")
    ids = groups = weights = None
    if source.id:
        ids, bad = row_ids(table[source.id], f"{shown}: column {source.id!r} (data.id)")
        bad_rows.drop(bad, "with an id that is not UTF-8")
    if source.group and name == "train":
        groups, bad, alone = _groups(table[source.group], f"{shown}: column {source.group!r} (data.group)")
        bad_rows.drop(bad, "with a group that is not UTF-8")

    if bad_rows.complaints and source.on_bad_row == "error":
        raise UserError(f"{shown}: {'; '.join(bad_rows.complaints)}; correct them, or set data.on_bad_row=drop")
    notices = [*notices_of(table), *bad_rows.check(labels, source.max_dropped)]
    for notice in notices:
        log.warning(notice)
    keep = bad_rows.keep
    if groups is not None and (alone & keep).any():
        rows = np.flatnonzero(alone & keep) + 1
        log.warning("%s: rows without a group form a group each: %s", shown, format_rows(rows))
    if source.weight and name == "train":
        weights = _weights(table[source.weight], keep, f"column {source.weight!r} (data.weight)", shown)

    def kept(column: pa.Array | pa.ChunkedArray) -> Any:
        return column if keep.all() else column.filter(pa.array(keep))

    texts, digest = filter_column(texts, keep, digest)
    labels = kept(labels)
    if is_list(labels.type) and not len(labels.flatten()):
        given = source.label if isinstance(source.label, str) else f"[{','.join(source.label)}]"
        raise UserError(f"{shown}: no row has a label (data.label={given})")
    release_pages()
    return Split(
        name=name,
        file=file,
        rows=np.flatnonzero(keep) + 1,
        ids=None if ids is None else to_array(kept(ids).cast(pa.string())),
        # The remaining texts are valid UTF-8: view() avoids a second validation that would read them from disk.
        texts=pa.chunked_array([chunk.view(pa.large_string()) for chunk in chunks(texts)], pa.large_string()),
        labels=labels,
        dropped=bad_rows.counts,
        label_names=tuple(source.names or ()) or (None if isinstance(source.label, str) else tuple(source.label)),
        notices=tuple(notices),
        groups=None if groups is None else to_array(kept(groups).cast(pa.string())),
        weights=weights,
        digest=digest,
        columns=len(source.text_columns),
    )


def read_texts(table: pa.Table, columns: Sequence[str], shown: str, option: str) -> tuple[pa.ChunkedArray, str | None]:
    """Return the texts of a table, large_binary [N], and their digest if they are mapped from the cache.

    Args:
        table: The table.
        columns: Columns of the text. Several are joined, in memory. See `data.text_columns`.
        shown: Name of the file in messages.
        option: Setting that names the columns, for messages.

    Raises:
        UserError: A column does not hold text.
    """
    for column in columns:
        if not is_text(table[column].type):
            raise UserError(f"{shown}: column {column!r} ({option}) holds {table[column].type}, not text")
    if len(columns) == 1:
        return table[columns[0]].cast(pa.large_binary()), text_digest(table)
    return join_columns([table[column] for column in columns]), None


def row_ids(column: Column, where: str) -> tuple[Column, np.ndarray]:
    """Return the ids in a column.

    Returns:
        large_string [N], with the row number where the id is blank, and bool [N], true where the id is not UTF-8.

    Raises:
        UserError: The column holds something other than text, whole numbers or bools. The message starts with `where`.
    """
    ids, bad = decode_utf8(cast_to_text(column, where))
    nameless = is_blank(ids)
    return (pc.if_else(pa.array(nameless), _row_numbers(len(ids)), ids) if nameless.any() else ids), bad


def _groups(column: Column, where: str) -> tuple[Column, np.ndarray, np.ndarray]:
    """Return the group of each row, the rows whose group is not UTF-8, and those with a blank group, a group each."""
    groups, bad = decode_utf8(cast_to_text(column, where))
    alone = is_blank(groups)
    if alone.any():
        prefix, between = (pa.scalar(part, pa.large_string()) for part in ("row ", ""))
        own = pc.binary_join_element_wise(prefix, _row_numbers(len(column)), between)
        groups = pc.if_else(pa.array(alone), own, groups)
    return groups, bad, alone


def _weights(column: pa.ChunkedArray, keep: np.ndarray, what: str, shown: str) -> np.ndarray:
    weights = parse_numbers(column)
    wrong = keep & ~((weights == 0) | ((weights >= 1 / MAX_WEIGHT) & (weights <= MAX_WEIGHT)))
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"{shown}: row {row + 1}: {what} holds {_format_value(column[row])}, which is neither 0 nor a number "
            f"from {1 / MAX_WEIGHT:g} to {MAX_WEIGHT:g}"
        )
    if not weights[keep].any():
        raise UserError(f"{shown}: {what} is 0 in every row: set some weights above 0")
    return weights[keep]


def _row_numbers(size: int) -> pa.Array:
    return pa.array(np.arange(1, size + 1)).cast(pa.large_string())


def _format_value(value: pa.Scalar) -> str:
    plain = value.as_py()
    return repr(plain.decode(errors="replace") if isinstance(plain, bytes) else plain)
