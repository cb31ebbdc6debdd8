"""Meaning of the columns of a table, as the settings of a source give it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from counterpoise.data.labels import TASKS
from counterpoise.data.readers.files import require_file, reraise_as_user_error
from counterpoise.errors import UserError, nearest


@dataclass(kw_only=True)
class TableFormat:
    """Meaning of the columns of a table, and treatment of rows that cannot be used.

    Args:
        text: Column of the text, or several columns, such as title and body, that are read together.
        label: Column of the labels, or several columns of 0 and 1 that are a label each.
        id: Column of the row ids.
        task: "single_label" or "multi_label". None: multi-label if labels are lists, split by `separator`, or in
            several columns.
        separator: Separator of several labels in one field.
        label_names: Names of all labels: a list, or a file with one name per line or a JSON list. Other labels are
            refused. Vectors of 0 and 1 in one column are read as the names of their positions.
        normalise_labels: Merge labels that differ only in spelling: letter case, Unicode compatibility forms, invisible
            characters, white space, and the notation of numbers. The most frequent spelling in training is kept.
        group: Column of groups that stay together when validation and test are split off. Training rows only.
        weight: Column of instance weights (0 or more). Training rows only.
        min_count: Labels with fewer training rows are removed from every split; single-label rows go with their label.
        on_bad_row: "drop" (count and warn) or "error", for rows without a text, without a label (single-label data) or
            not in UTF-8.
        max_dropped: Fraction of the rows of a file that may be dropped. Also, a class must not lose more than half of
            its rows, or this fraction. 1: no limit.
    """

    text: str | list[str] = "text"
    label: str | list[str] = "label"
    id: str | None = None
    task: str | None = None
    separator: str | None = None
    label_names: Sequence[str] | str | None = None
    normalise_labels: bool = False
    group: str | None = None
    weight: str | None = None
    min_count: int = 1
    on_bad_row: str = "drop"
    max_dropped: float = 0.05

    def __post_init__(self) -> None:
        """Raise UserError for values that cannot be column names."""
        self.text, self.label = _columns("text", self.text), _columns("label", self.label)
        for key in ("id", "group", "weight"):
            if getattr(self, key) is not None:
                setattr(self, key, _column(key, getattr(self, key)))

    @property
    def text_columns(self) -> list[str]:
        """The columns of the text."""
        return text_columns(self.text)

    def needed(self, split: str) -> list[str]:
        """Return the distinct columns to read for a split, the text first."""
        of_training = [self.group, self.weight] if split == "train" else []
        labels = [self.label] if isinstance(self.label, str) else self.label
        return list(dict.fromkeys([*self.text_columns, *labels, *(each for each in (self.id, *of_training) if each)]))

    @cached_property
    def names(self) -> list[str] | None:
        """Names of all labels, from the setting `label_names` or its file; None if there are none.

        Raises:
            UserError: The names are missing, blank or not distinct.
        """
        names: Any = self.label_names
        if names is None:
            return None
        if isinstance(names, str):
            path = Path(names).expanduser()
            require_file(path)
            with reraise_as_user_error(path, (OSError, ValueError)):
                text = path.read_text(encoding="utf-8-sig")
                names = json.loads(text) if text.lstrip().startswith("[") else text.split("\n")
            names = names[:-1] if names and names[-1] == "" else names
        names = [str(name).strip() for name in names]
        if not all(names) or len(set(names)) < max(2, len(names)):
            raise UserError(
                f"data.label_names has {len(names)} names, of which {len(set(names) - {''})} are distinct and not "
                "blank: give two or more different names"
            )
        return names

    def check(self) -> None:
        """Raise UserError for invalid settings."""
        check_on_bad_row(self.on_bad_row)
        if self.task not in (None, *TASKS):
            raise UserError(
                f"data.task is {self.task!r}; it can be {', '.join(TASKS)} or null.{nearest(self.task, TASKS)}"
            )
        check_min_count(self.min_count)
        if isinstance(self.max_dropped, bool) or not 0 <= self.max_dropped <= 1:
            raise UserError(f"data.max_dropped={self.max_dropped}: use a fraction from 0 to 1; 1: no limit")
        if self.separator == "" or not isinstance(self.separator, str | None):
            given = self.separator if self.separator != "" else "empty"
            raise UserError(f"data.separator is {given}; use the separator of the labels, such as '|', or null")
        several = not isinstance(self.label, str)
        if self.names and several:
            raise UserError("data.label_names is for labels in one column, but data.label names several: remove one")
        if several and (len(self.label) < 2 or len(set(self.label)) < len(self.label)):
            raise UserError(f"data.label={list(self.label)}: name one column, or several different ones in a list")
        if several and self.separator:
            raise UserError(
                "data.separator splits one column, but data.label names several: remove one of the two settings"
            )
        if not isinstance(self.text, str) and (len(self.text) < 2 or len(set(self.text)) < len(self.text)):
            raise UserError(f"data.text={list(self.text)}: name one column, or several different ones in a list")
        labels = self.label if several else [self.label]
        if both := [column for column in self.text_columns if column in labels]:
            raise UserError(f"data.text and data.label are both {both[0]!r}; they must be different columns")


def check_on_bad_row(choice: str) -> None:
    """Raise UserError for an invalid `data.on_bad_row`."""
    if choice not in ("drop", "error"):
        raise UserError(f"data.on_bad_row is {choice!r}; it can be 'drop' or 'error'")


def check_min_count(least: int) -> None:
    """Raise UserError for an invalid `data.min_count`."""
    if not isinstance(least, int) or least < 1:
        raise UserError(f"data.min_count={least}: use a whole number of 1 or more; 1 keeps every label")


def text_columns(text: Any) -> list[str]:
    """Return the columns that a value of `data.text` names; "text" if it is None.

    YAML reads a name such as 7 as a whole number.
    """
    if isinstance(text, Sequence) and not isinstance(text, str):
        return list(map(str, text))
    return ["text" if text is None else str(text)]


def _columns(key: str, names: Any) -> str | list[str]:
    if isinstance(names, Sequence) and not isinstance(names, str):
        return [_column(key, name) for name in names]
    return _column(key, names)


def _column(key: str, name: Any) -> str:
    """Return the name of a column. YAML reads a name such as 7 as a whole number."""
    if not isinstance(name, str) and type(name) is not int:
        raise UserError(f"data.{key} is {name!r}; it must be the name of a column")
    return str(name)
