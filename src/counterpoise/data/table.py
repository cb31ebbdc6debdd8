"""The usable rows of a table: which columns to read, and what they hold, split by split."""

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
from counterpoise.data.readers import TEXT_FAULTS
from counterpoise.errors import UserError, nearest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """The usable rows of one file or one split of a dataset, N of them, in its order.

    rows: int64 [N], their numbers in the file, from 1, the header not counted.
    ids: string [N], the row number where a row has none; None where there is no id column.
    texts: large_string [N], as in the file.
    labels: string [N], or list<string> [N] where a row has any number of them; without surrounding whitespace, and
    without blanks and duplicates within a row.
    dropped: how many rows were left out, by reason.
    groups: string [N], what must not be divided when parts are split off; None where there is no such column.
    weights: float64 [N], instance weights, not negative and not all 0; None where there are none.
    digest: of the texts, which are mapped from the cache; None where they are in memory.
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
        """Either "single_label" or "multi_label"."""
        return task_of(self.labels)

    @property
    def noun(self) -> str:
        """What the labels are called: "classes" or "labels"."""
        return "classes" if self.task == "single_label" else "labels"

    @property
    def group_numbers(self) -> np.ndarray | None:
        """The groups as numbers from 0 on, int64 [N]."""
        if self.groups is None:
            return None
        return self.groups.dictionary_encode().indices.to_numpy().astype(np.int64)

    def filter(self, kept: np.ndarray) -> "Split":
        """Returns the rows for which `kept` (bool [N]) is true."""
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
    """What the columns of a table hold, and what becomes of rows that cannot be used.

    text and id: a column each. label: the column of labels, or several columns of 0 and 1 that are a label each.
    task: "single_label" or "multi_label"; None: multi-label where the labels are lists, are split by `separator` or
    lie in several columns. group: column of what must stay together when validation and test are split off, and
    weight: column of instance weights, numbers from 0 on; both of the training rows alone. min_count: labels that
    fewer training rows have are left out of every split, in single-label data with their rows. on_bad_row: "drop"
    (and count and warn) or "error", for rows without a text, without a label in single-label data, or not in UTF-8.
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
        """Raises UserError for what cannot be the name of a column."""
        several = isinstance(self.label, Sequence) and not isinstance(self.label, str)
        self.text = _column("text", self.text)
        self.label = [_column("label", each) for each in self.label] if several else _column("label", self.label)
        for key in ("id", "group", "weight"):
            if getattr(self, key) is not None:
                setattr(self, key, _column(key, getattr(self, key)))

    def needed(self, split: str) -> list[str]:
        """Returns the columns to read of a split, each once, the text first."""
        of_training = [self.group, self.weight] if split == "train" else []
        labels = [self.label] if isinstance(self.label, str) else self.label
        return list(dict.fromkeys([self.text, *labels, *(each for each in (self.id, *of_training) if each)]))

    def check(self) -> None:
        """Raises UserError for settings that cannot be."""
        check_on_bad_row(self.on_bad_row)
        if self.task not in (None, *TASKS):
            raise UserError(
                f"data.task is {self.task!r}; it can be {', '.join(TASKS)} or null.{nearest(self.task, TASKS)}"
            )
        check_min_count(self.min_count)
        if self.separator == "" or not isinstance(self.separator, str | None):
            given = self.separator if self.separator != "" else "empty"
            raise UserError(f"data.separator is {given}; it must be what stands between labels, such as '|', or null")
        several = not isinstance(self.label, str)
        if several and (len(self.label) < 2 or len(set(self.label)) < len(self.label)):
            raise UserError(f"data.label={list(self.label)}: name one column, or several different ones in a list")
        if several and self.separator:
            raise UserError("data.separator splits one column, and data.label names several: leave one of them out")
        if self.text == self.label or (several and self.text in self.label):
            raise UserError(f"data.text and data.label are both {self.text!r}; they must be two columns")


def usable_rows(source: TableFormat, name: str, shown: str, table: pa.Table, file: str) -> Split:
    """Returns the good rows of the table as the split `name`. `shown` is the file's name in messages."""
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
        raise UserError(f"{shown}: {'; '.join(complaints)}; mend them, or set data.on_bad_row=drop")
    if not keep.any():
        raise UserError(f"{shown} has no rows left: {'; '.join(complaints)}")
    for complaint in complaints:
        log.warning("%s: dropped %s", shown, complaint)
    if groups is not None and (alone & keep).any():
        rows = np.flatnonzero(alone & keep) + 1
        log.warning("%s: without a group, each a group of its own: %s", shown, format_rows(rows))
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
        # What is left is UTF-8: to look again would take the texts from the disk again.
        texts=pa.chunked_array([chunk.view(pa.large_string()) for chunk in chunks(texts)], pa.large_string()),
        labels=labels,
        dropped=dropped,
        groups=None if groups is None else to_array(kept(groups).cast(pa.string())),
        weights=weights,
        digest=digest,
    )


def row_ids(column: Column, where: str) -> tuple[Column, np.ndarray]:
    """Returns the ids in a column as large_string [N], the row number where one is blank, and bool [N]: not UTF-8.

    Raises UserError, which begins with `where`, for what is neither text nor whole numbers nor bools.
    """
    ids, bad = decode_utf8(cast_to_text(column, where))
    nameless = is_blank(ids)
    return (pc.if_else(pa.array(nameless), _row_numbers(len(ids)), ids) if nameless.any() else ids), bad


def check_on_bad_row(choice: str) -> None:
    """Raises UserError where `data.on_bad_row` is no choice."""
    if choice not in ("drop", "error"):
        raise UserError(f"data.on_bad_row is {choice!r}; it can be 'drop' or 'error'")


def check_min_count(least: int) -> None:
    """Raises UserError where `data.min_count` is no number of rows."""
    if not isinstance(least, int) or least < 1:
        raise UserError(f"data.min_count={least}: use a whole number from 1 on; 1 keeps every label")


def drop_rare_labels(splits: dict[str, Split], least: int) -> dict[str, Split]:
    """Returns the splits without the labels that 1 to `least` - 1 training rows have.

    Rows of single-label data go with their label. Raises UserError where nothing is left, or where the splits are of
    different tasks.
    """
    train = splits["train"]
    for split in splits.values():
        if split.task != train.task:
            raise UserError(
                f"{split.file} is {split.task} and {train.file} {train.task}: "
                "either each file has one label per row, or each has lists"
            )
    rare, largest = rare_labels(train.labels, least)
    if not len(rare):
        return splits
    if largest < least:
        raise UserError(f"data.min_count={least}: no label of {train.file} has so many rows; {largest} is the most")
    log.info("%s: labels that fewer than %d rows have, left out (data.min_count): %d", train.file, least, len(rare))
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
        raise UserError(f"{shown}: row {row + 1}: {what} holds {_format_value(column[row])}, not a number from 0 on")
    if not weights[keep].any():
        raise UserError(f"{shown}: {what} is 0 in every row; some row must count")
    return weights[keep]


def _column(key: str, name: Any) -> str:
    """Returns the name of a column, which is a whole number in a configuration where it looks like one."""
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
