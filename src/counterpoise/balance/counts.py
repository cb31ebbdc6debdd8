"""Class counts and the rows of each class."""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from scipy import sparse

BLOCK = 2**16
"""Rows that are sorted into their classes at once: few enough to stay in the processor's cache."""

Targets: TypeAlias = np.ndarray | sparse.csr_matrix
"""Class numbers, int [N], or which labels each row holds, bool csr [N, C]."""


@dataclass(frozen=True)
class ClassIndex:
    """The rows of each class or label: `rows[starts[c]:starts[c + 1]]`, sorted, are those of number c.

    A row is in one class; it may hold several labels, or none. Row numbers are int32, from 2^31 rows (or labels of
    rows) on int64, and so are those that a sampler draws.
    """

    rows: np.ndarray
    starts: np.ndarray
    num_rows: int
    multi_label: bool = False

    @classmethod
    def of(cls, targets: Targets, num_classes: int) -> "ClassIndex":
        """Returns the index of class numbers (int [N], values in [0, num_classes)) or of label sets (csr [N, C])."""
        if not isinstance(targets, np.ndarray):
            by_label = targets.tocsc()
            return cls(by_label.indices, by_label.indptr.astype(np.int64), targets.shape[0], True)
        return cls(*_sorted_by_class(targets, num_classes), len(targets))

    @cached_property
    def counts(self) -> np.ndarray:
        """n_c, int64 [C]."""
        return np.diff(self.starts)

    @cached_property
    def unlabelled(self) -> np.ndarray:
        """The rows that hold no label; none in single-label data."""
        labelled = np.zeros(self.num_rows, bool)
        labelled[self.rows] = True
        return np.flatnonzero(~labelled).astype(self.rows.dtype)

    def members(self, c: int | np.integer) -> np.ndarray:
        """Returns the rows of number `c`, [n_c]."""
        return self.rows[self.starts[c] : self.starts[c + 1]]

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Returns the sum of `values` (float [N]) over the members of each class, float64 [C]."""
        return np.array([values[self.members(c)].sum(dtype=np.float64) for c in range(len(self.counts))])


def _sorted_by_class(classes: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the row numbers [N] sorted by class, in order within each, and where each class starts, int64 [C + 1].

    A counting sort, block by block: linear in time, and with nothing of the size of the data but the row numbers.
    """
    blocks = [slice(start, start + BLOCK) for start in range(0, len(classes), BLOCK)]
    counts = sum((np.bincount(classes[block], minlength=num_classes) for block in blocks), np.zeros(num_classes, int))
    starts = np.concatenate([[0], np.cumsum(counts)])
    rows = np.empty(len(classes), np.int32 if len(classes) < 2**31 else np.int64)
    free = starts[:-1].copy()
    # In a type of one or two bytes numpy's stable sort is a radix sort.
    narrow = np.min_scalar_type(num_classes)
    for block in blocks:
        order = np.argsort(classes[block].astype(narrow), kind="stable")
        counts = np.bincount(classes[block], minlength=num_classes)
        shifts = free - (np.cumsum(counts) - counts)
        rows[np.repeat(shifts, counts) + np.arange(len(order))] = order + block.start
        free += counts
    return rows, starts
