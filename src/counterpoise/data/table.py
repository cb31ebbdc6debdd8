"""Usable rows of a table: columns to read, their validation, and the resulting split."""

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
from counterpoise.data.labels import TASKS, rare_labels, read_labels, remove_labels, task_of
from counterpoise.data.readers import TEXT_FAULTS, notices_of
from counterpoise.errors import UserError, nearest

log = logging.getLogger(__name__)


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
        digest: Digest of the texts if they are mapped from the cache, else None.
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
    digest: str | None = None

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


@dataclass(kw_only=True)
class TableFormat:
    """Meaning of the columns of a table, and treatment of rows that cannot be used.

    Args:
        text: Column of the text.
        label: Column of the labels, or several columns of 0 and 1 that are a label each.
        id: Column of the row ids.
        task: "single_label" or "multi_label". None: multi-label if labels are lists, split by `separator`, or in
            several columns.
        separator: Separator of several labels in one field.
        group: Column of groups that stay together when validation and test are split off. Training rows only.
        weight: Column of instance weights (0 or more). Training rows only.
        min_count: Labels with fewer training rows are removed from every split; single-label rows go with their label.
        on_bad_row: "drop" (count and warn) or "error", for rows without a text, without a label (single-label data) or
            not in UTF-8.
    """

    text: str = "text"
    label: str | list[str] = "label"
    id: str | None = None
    task: str | None = None
    separator: str | None = None
    group: str | None = None
    weight: str | None = None
    min_count: int = 1
    on_bad_row: str = "drop"

    def __post_init__(self) -> None:
        """Raise UserError for values that cannot be column names."""
        several = isinstance(self.label, Sequence) and not isinstance(self.label, str)
        self.text = _column("text", self.text)
        self.label = [_column("label", each) for each in self.label] if several else _column("label", self.label)
        for key in ("id", "group", "weight"):
            if getattr(self, key) is not None:
                setattr(self, key, _column(key, getattr(self, key)))

    def needed(self, split: str) -> list[str]:
        """Return the distinct columns to read for a split, the text first."""
        of_training = [self.group, self.weight] if split == "train" else []
        labels = [self.label] if isinstance(self.label, str) else self.label
        return list(dict.fromkeys([self.text, *labels, *(each for each in (self.id, *of_training) if each)]))

    def check(self) -> None:
        """Raise UserError for invalid settings."""
        check_on_bad_row(self.on_bad_row)
        if self.task not in (None, *TASKS):
            raise UserError(
                f"data.task is {self.task!r}; it can be {', '.join(TASKS)} or null.{nearest(self.task, TASKS)}"
            )
        check_min_count(self.min_count)
        if self.separator == "" or not isinstance(self.separator, str | None):
            given = self.separator if self.separator != "" else "empty"
            raise UserError(f"data.separator is {given}; use the separator of the labels, such as '|', or null")
        several = not isinstance(self.label, str)
        if several and (len(self.label) < 2 or len(set(self.label)) < len(self.label)):
            raise UserError(f"data.label={list(self.label)}: name one column, or several different ones in a list")
        if several and self.separator:
            raise UserError(
                "data.separator splits one column, but data.label names several: remove one of the two settings"
            )
        if self.text == self.label or (several and self.text in self.label):
            raise UserError(f"data.text and data.label are both {self.text!r}; they must be different columns")


def usable_rows(source: TableFormat, name: str, shown: str, table: pa.Table, file: str) -> Split:
    """Return the usable rows of a table as a split.

    Args:
        source: Meaning of the columns.
        name: Name of the split.
        shown: Name of the file in messages.
        table: Table with all needed columns.
        file: Value of `Split.file`.

    Raises:
        UserError: No usable row remains, a column has an invalid type, or a row is refused (`on_bad_row="error"`).
    """
    if not len(table):
        raise UserError(f"{shown} has no rows")
    keep = np.ones(len(table), dtype=bool)
    dropped: dict[str, int] = {}
    complaints = []

    def leave_out(bad: np.ndarray, reason: str) -> None:
        rows = np.flatnonzero(bad & keep) + 1
        if len(rows):
            keep[rows - 1] = False
            dropped[reason] = len(rows)
            complaints.append(f"{len(rows)} {'row' if len(rows) == 1 else 'rows'} {reason} ({format_rows(rows)})")

    for notice in notices_of(table):
        log.warning(notice)
    labels, unusable = read_labels(table, source.label, source.separator, source.task, shown)
    for reason, bad in unusable.items():
        leave_out(bad, reason)
    texts = table[source.text]
    if not is_text(texts.type):
        raise UserError(f"{shown}: column {source.text!r} (data.text) holds {texts.type}, not text")
    texts = texts.cast(pa.large_binary())
    faults = table[TEXT_FAULTS].to_numpy() if TEXT_FAULTS in table.column_names else find_text_faults(texts)
    leave_out(faults == NOT_UTF8, "with a text that is not UTF-8")
    leave_out(faults == BLANK, "without a text")
    ids = groups = weights = None
    if source.id:
        ids, bad = row_ids(table[source.id], f"{shown}: column {source.id!r} (data.id)")
        leave_out(bad, "with an id that is not UTF-8")
    if source.group and name == "train":
        groups, bad = decode_utf8(cast_to_text(table[source.group], f"{shown}: column {source.group!r} (data.group)"))
        leave_out(bad, "with a group that is not UTF-8")
        alone = is_blank(groups)
        if alone.any():
            prefix, between = (pa.scalar(part, pa.large_string()) for part in ("row ", ""))
            own = pc.binary_join_element_wise(prefix, _row_numbers(len(table)), between)
            groups = pc.if_else(pa.array(alone), own, groups)

    if complaints and source.on_bad_row == "error":
        raise UserError(f"{shown}: {'; '.join(complaints)}; correct them, or set data.on_bad_row=drop")
    if not keep.any():
        raise UserError(f"{shown} has no usable rows: {'; '.join(complaints)}")
    for complaint in complaints:
        log.warning("%s: dropped %s", shown, complaint)
    if groups is not None and (alone & keep).any():
        rows = np.flatnonzero(alone & keep) + 1
        log.warning("%s: rows without a group form a group each: %s", shown, format_rows(rows))
    if source.weight and name == "train":
        weights = _weights(table[source.weight], keep, f"column {source.weight!r} (data.weight)", shown)

    def kept(column: pa.Array | pa.ChunkedArray) -> Any:
        return column if keep.all() else column.filter(pa.array(keep))

    texts, digest = filter_column(texts, keep, text_digest(table))
    labels = kept(labels)
    if is_list(labels.type) and not len(labels.flatten()):
        raise UserError(f"{shown}: no row has a label (data.label={_format_label_setting(source.label)})")
    release_pages()
    return Split(
        name=name,
        file=file,
        rows=np.flatnonzero(keep) + 1,
        ids=None if ids is None else to_array(kept(ids).cast(pa.string())),
        # The remaining texts are valid UTF-8: view() avoids a second validation that would read them from disk.
        texts=pa.chunked_array([chunk.view(pa.large_string()) for chunk in chunks(texts)], pa.large_string()),
        labels=labels,
        dropped=dropped,
        groups=None if groups is None else to_array(kept(groups).cast(pa.string())),
        weights=weights,
        digest=digest,
    )


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


def check_on_bad_row(choice: str) -> None:
    """Raise UserError for an invalid `data.on_bad_row`."""
    if choice not in ("drop", "error"):
        raise UserError(f"data.on_bad_row is {choice!r}; it can be 'drop' or 'error'")


def check_min_count(least: int) -> None:
    """Raise UserError for an invalid `data.min_count`."""
    if not isinstance(least, int) or least < 1:
        raise UserError(f"data.min_count={least}: use a whole number of 1 or more; 1 keeps every label")


def drop_rare_labels(splits: dict[str, Split], least: int) -> dict[str, Split]:
    """Remove labels that have 1 to `least` - 1 training rows from all splits. Single-label rows go with their label.

    Raises:
        UserError: Nothing is left, or the splits have different tasks.
    """
    train = splits["train"]
    for split in splits.values():
        if split.task != train.task:
            raise UserError(
                f"{split.file} is {split.task} but {train.file} is {train.task}: all files must have the same task"
            )
    rare, largest = rare_labels(train.labels, least)
    if not len(rare):
        return splits
    if largest < least:
        raise UserError(
            f"data.min_count={least}: no label of {train.file} has as many rows; the most frequent one has {largest}"
        )
    log.info("%s: removed labels with fewer than %d training rows (data.min_count): %d", train.file, least, len(rare))
    if train.task == "multi_label":
        return {name: replace(split, labels=remove_labels(split.labels, rare)) for name, split in splits.items()}
    return {name: _without_rows(split, rare, least) for name, split in splits.items()}


def _without_rows(split: Split, rare: pa.Array, least: int) -> Split:
    kept = ~pc.is_in(split.labels, rare).to_numpy(zero_copy_only=False)
    if kept.all():
        return split
    if not kept.any():
        raise UserError(f"data.min_count={least} leaves no row of {split.file}")
    reason = f"with a label of fewer than {least} training rows"
    return replace(split.filter(kept), dropped=split.dropped | {reason: int((~kept).sum())})


def _weights(column: pa.ChunkedArray, keep: np.ndarray, what: str, shown: str) -> np.ndarray:
    weights = parse_numbers(column)
    wrong = keep & ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"{shown}: row {row + 1}: {what} holds {_format_value(column[row])}, which is not a number of 0 or more"
        )
    if not weights[keep].any():
        raise UserError(f"{shown}: {what} is 0 in every row: set some weights above 0")
    return weights[keep]


def _column(key: str, name: Any) -> str:
    """Return the name of a column. YAML reads a name such as 7 as a whole number."""
    if not isinstance(name, str) and type(name) is not int:
        raise UserError(f"data.{key} is {name!r}; it must be the name of a column")
    return str(name)


def _row_numbers(size: int) -> pa.Array:
    return pa.array(np.arange(1, size + 1)).cast(pa.large_string())


def _format_label_setting(label: str | Sequence[str]) -> str:
    return label if isinstance(label, str) else f"[{','.join(label)}]"


def _format_value(value: pa.Scalar) -> str:
    plain = value.as_py()
    return repr(plain.decode(errors="replace") if isinstance(plain, bytes) else plain)
