"""Rows that cannot be used: counted by reason and by class, and refused if they are too many."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from counterpoise.data.arrow_columns import format_rows, is_text
from counterpoise.data.label_spelling import label_counts_of
from counterpoise.errors import UserError

HEADER = "with the names of the columns"
MIN_CLASS = 3
"""Rows of the smallest class that must not lose most of them."""
ALWAYS_DROPPED = 2
"""Rows that may be dropped from a file of any size."""
SHOWN_CLASSES = 5


class DroppedRows:
    """The unusable rows of a table of N rows.

    Args:
        shown: Name of the file in messages.
        size: N.

    Attributes:
        keep: The usable rows, bool [N].
        reasons: Numbers of the dropped rows by reason, from 1.
    """

    def __init__(self, shown: str, size: int) -> None:
        self.shown = shown
        self.keep = np.ones(size, bool)
        self.reasons: dict[str, np.ndarray] = {}

    def drop(self, bad: np.ndarray, reason: str) -> None:
        """Drop the rows for which `bad` (bool [N]) is true and which no earlier reason has dropped."""
        rows = np.flatnonzero(bad & self.keep)
        if len(rows):
            self.keep[rows] = False
            self.reasons[reason] = rows + 1

    @property
    def counts(self) -> dict[str, int]:
        """Number of dropped rows by reason."""
        return {reason: len(rows) for reason, rows in self.reasons.items()}

    @property
    def complaints(self) -> list[str]:
        """A phrase for each reason, such as "2 rows without a text (rows 4, 5)"."""
        return [
            f"{len(rows)} {'row' if len(rows) == 1 else 'rows'} {reason} ({format_rows(rows)})"
            for reason, rows in self.reasons.items()
        ]

    def check(self, labels: pa.Array, max_dropped: float) -> list[str]:
        """Return the notices of the dropped rows: one line per reason, and one with the classes of the rows.

        Repeated headers are not counted against the limit.

        Args:
            labels: string [N] or list<string> [N].
            max_dropped: Fraction of the rows that may be dropped. At 1 there is no limit.

        Raises:
            UserError: Nothing is left, more than `max_dropped` of the rows are dropped, or most rows of a class.
        """
        if not self.keep.any():
            raise UserError(f"{self.shown} has no usable rows: {'; '.join(self.complaints)}")
        data_rows = np.ones(len(self.keep), bool)
        data_rows[self.reasons.get(HEADER, np.empty(0, int)) - 1] = False
        total = _labelled_counts(labels.filter(pa.array(data_rows)))
        lost = _labelled_counts(labels.filter(pa.array(data_rows & ~self.keep)))
        by_loss = sorted(lost, key=lambda label: (-lost[label] / total[label], label))
        shown = ", ".join(f"'{label}' {lost[label]:,} of {total[label]:,}" for label in by_loss[:SHOWN_CLASSES])
        shown += f" and {len(by_loss) - SHOWN_CLASSES} more" if len(by_loss) > SHOWN_CLASSES else ""
        dropped, rows = int((data_rows & ~self.keep).sum()), int(data_rows.sum())
        worst = max((lost[label] / total[label] for label in lost if total[label] >= MIN_CLASS), default=0.0)
        if max_dropped < 1 and (dropped > max(ALWAYS_DROPPED, max_dropped * rows) or worst > max(0.5, max_dropped)):
            classes = f"; by class: {shown}" if shown else ""
            raise UserError(
                f"{self.shown}: {dropped:,} of {rows:,} rows would be dropped: {'; '.join(self.complaints)}{classes}. "
                "Correct them, or allow it with data.max_dropped=1"
            )
        notices = [f"{self.shown}: dropped {complaint}" for complaint in self.complaints]
        return [*notices, *([f"{self.shown}: dropped rows by class: {shown}"] if shown else [])]


def repeated_headers(table: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """Return the rows that hold the name of each column, bool [N], as where files are joined with their headers."""
    repeated = np.ones(len(table), bool)
    for column in columns:
        values = table[column]
        if not is_text(values.type):
            return np.zeros(len(table), bool)
        name = pa.array([column.encode(), b"\xef\xbb\xbf" + column.encode()], pa.large_binary())
        equal = pc.is_in(pc.cast(values, pa.large_binary()), name)
        repeated &= pc.fill_null(equal, False).to_numpy(zero_copy_only=False)
        if not repeated.any():
            break
    return repeated


def _labelled_counts(labels: pa.Array) -> dict[str, int]:
    """Return the number of rows of each label that is not blank."""
    return {label: rows for label, rows in label_counts_of(labels).items() if label and label.strip()}
