"""Class counts and the rows of each class."""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from scipy import sparse

BLOCK = 2**16
"""Rows sorted at once. A block fits into the processor cache."""

Targets: TypeAlias = np.ndarray | sparse.csr_matrix
"""Single-label: class numbers, int [N]. Multi-label: indicator matrix, bool csr [N, C]."""


@dataclass(frozen=True)
class ClassIndex:
    """The rows of each class or label: `rows[starts[c]:starts[c + 1]]`, in ascending order, for class c.

    Args:
        rows: Row numbers, grouped by class. Single-label: [N]. Multi-label: one entry per row and label. int32, or
            int64 from 2^31 entries; a sampler draws the same type.
        starts: Start of each class in `rows`, int64 [C + 1].
        num_rows: Number of rows N.
        multi_label: Whether a row may have any number of labels. Defaults to False.
        weights: Instance weights of the rows, float [N], not negative. None (default): all rows have equal weight.
    """

    rows: np.ndarray
    starts: np.ndarray
    num_rows: int
    multi_label: bool = False
    weights: np.ndarray | None = None

    @classmethod
    def from_targets(cls, targets: Targets, num_classes: int, weights: np.ndarray | None = None) -> "ClassIndex":
        """Return the index of class numbers (int [N], in [0, num_classes)) or of an indicator matrix (csr [N, C])."""
        if not isinstance(targets, np.ndarray):
            by_label = targets.tocsc()
            return cls(by_label.indices, by_label.indptr.astype(np.int64), targets.shape[0], True, weights)
        return cls(*_sorted_by_class(targets, num_classes), len(targets), False, weights)

    @cached_property
    def counts(self) -> np.ndarray:
        """Class counts n_c, int64 [C]."""
        return np.diff(self.starts)

    @cached_property
    def unlabelled(self) -> np.ndarray:
        """Rows without any label; empty for single-label data."""
        labelled = np.zeros(self.num_rows, bool)
        labelled[self.rows] = True
        return np.flatnonzero(~labelled).astype(self.rows.dtype)

    def members(self, c: int | np.integer) -> np.ndarray:
        """Return the rows of class `c`, [n_c]."""
        return self.rows[self.starts[c] : self.starts[c + 1]]

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of `values` (float [N]) over the rows of each class, float64 [C]."""
        return np.array([values[self.members(c)].sum(dtype=np.float64) for c in range(len(self.counts))])


def _sorted_by_class(classes: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the row numbers sorted by class, [N], and the start of each class, int64 [C + 1].

    This is a stable counting sort in blocks: linear time, and no array of length N besides the result.
    """
    blocks = [slice(start, start + BLOCK) for start in range(0, len(classes), BLOCK)]
    counts = sum((np.bincount(classes[block], minlength=num_classes) for block in blocks), np.zeros(num_classes, int))
    starts = np.concatenate([[0], np.cumsum(counts)])
    rows = np.empty(len(classes), np.int32 if len(classes) < 2**31 else np.int64)
    free = starts[:-1].copy()
    # For types of one or two bytes numpy's stable sort is a radix sort.
    narrow = np.min_scalar_type(num_classes)
    for block in blocks:
        order = np.argsort(classes[block].astype(narrow), kind="stable")
        counts = np.bincount(classes[block], minlength=num_classes)
        shifts = free - (np.cumsum(counts) - counts)
        rows[np.repeat(shifts, counts) + np.arange(len(order))] = order + block.start
        free += counts
    return rows, starts
