"""Stratified splits, the label vocabulary and label counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from counterpoise.balance.counts import ClassIndex, Targets
from counterpoise.data.arrow_columns import Column, flatten_lists, is_list
from counterpoise.data.iterative_stratification import iterative_split
from counterpoise.data.label_spelling import canonical_spellings


def split_off(
    targets: Targets, fraction: float, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into a kept and a held-out part, stratified by class or by all labels.

    Args:
        targets: Class numbers, int [N], or label indicators, bool [N, C].
        fraction: Fraction of the rows to hold out, in [0, 1).
        seed: Seed of the split.
        groups: Group number of each row, int [N]. A group is never divided. Defaults to none.

    Returns:
        (kept, held_out): sorted row numbers.
    """
    if isinstance(targets, np.ndarray):
        if groups is None:
            return stratified_split(targets, fraction, seed)
        number, shape = len(targets), (len(targets), int(targets.max(initial=0)) + 1)
        targets = csr_matrix((np.ones(number, bool), targets, np.arange(number + 1)), shape)
    return iterative_split(targets, fraction, seed, groups)


def assign_folds(targets: Targets, folds: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Assign rows to folds, stratified like `split_off`. The folds differ little in size and in class proportions.

    A class whose rows (or groups) are all in one fold would be absent from the training data of that fold: its smallest
    group is in no fold, and so always part of the training data. This holds for every class of one row.

    Args:
        targets: Class numbers, int [N], or label indicators, bool [N, C].
        folds: Number of folds, K >= 2.
        seed: Seed of the assignment.
        groups: Group number of each row, int [N]. A group is never divided. Defaults to none.

    Returns:
        Fold of each row, int64 [N], from 0 to K - 1; -1 for a row that is in no fold.
    """
    fold_of_row = np.full(targets.shape[0], folds - 1)
    left = np.arange(targets.shape[0])
    for fold in range(folds - 1):
        kept, out = split_off(targets[left], 1 / (folds - fold), seed + fold, None if groups is None else groups[left])
        fold_of_row[left[out]] = fold
        left = left[kept]
    _keep_every_class(targets, fold_of_row, groups)
    return fold_of_row


def _keep_every_class(targets: Targets, fold_of_row: np.ndarray, groups: np.ndarray | None) -> None:
    """Take the smallest group of each class out of its fold, in place, if that is the only fold with the class."""
    index = ClassIndex.from_targets(targets, int(targets.max()) + 1 if targets.ndim == 1 else targets.shape[1])
    units = np.arange(len(fold_of_row)) if groups is None else groups
    sizes = np.bincount(units)
    for c in np.flatnonzero(index.counts):
        rows = index.members(c)
        if fold_of_row[rows[0]] >= 0 and (fold_of_row[rows] == fold_of_row[rows[0]]).all():
            fold_of_row[units == min(units[rows], key=lambda unit: sizes[unit])] = -1


def stratified_split(classes: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into a kept and a held-out part, stratified by class.

    Of the n rows of a class, n * fraction are held out, rounded to the nearest whole number (halves up) and at most
    n - 1. Every class therefore stays in the kept part. At a fraction of 0.1 a class needs five rows for one to be held
    out.

    Args:
        classes: Class numbers, int [N].
        fraction: Fraction of each class to hold out, in [0, 1).
        seed: Seed of the split.

    Returns:
        (kept, held_out): sorted row numbers.
    """
    rng = np.random.default_rng(seed)
    index = ClassIndex.from_targets(classes, int(classes.max(initial=-1)) + 1)
    sizes = np.minimum(np.floor(index.counts * fraction + 0.5), np.maximum(index.counts - 1, 0)).astype(np.int64)
    held_out = np.zeros(len(classes), bool)
    for c in np.flatnonzero(sizes):
        held_out[rng.choice(index.members(c), sizes[c], replace=False)] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def sample_rows(targets: Targets, limit: int, seed: int) -> np.ndarray:
    """Return the sorted row numbers of a stratified sample of about `limit` rows.

    If most of the data belongs to classes too small for a share, the sample is uniform.
    """
    rows = targets.shape[0]
    _, sample = split_off(targets, limit / rows, seed)
    if len(sample) < limit / 2:
        sample = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
    return sample


@dataclass(frozen=True)
class Vocabulary:
    """Classes or labels of the training data.

    Args:
        labels: Names in order. The position is the class number and the column of the logits.
    """

    labels: list[str]

    @classmethod
    def of(cls, labels: Column) -> "Vocabulary":
        """Return the distinct labels, sorted as numbers if all are whole numbers, else as text.

        Args:
            labels: string [N], or list<string> [N].
        """
        names = pc.unique(_label_values(labels)[1]).to_pylist()
        whole = all(name.removeprefix("-").isdecimal() for name in names)
        return cls(sorted(names, key=(lambda name: (int(name), name)) if whole else None))

    def encode(self, labels: Column) -> Targets:
        """Encode labels as targets.

        Args:
            labels: string [N], or list<string> [N].

        Returns:
            Class numbers, int64 [N], with -1 for unknown labels. For lists: label indicators, bool [N, C],
            without unknown labels.
        """
        rows, names = _label_values(labels)
        found = pc.index_in(names, value_set=pa.array(self.labels, names.type))
        numbers = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        if not is_list(labels.type):
            return numbers
        known = numbers >= 0
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows[known], minlength=len(labels)))])
        places = numbers[known].astype(np.int32), starts
        matrix = csr_matrix((np.ones(starts[-1], bool), *places), (len(labels), len(self.labels)))
        matrix.sum_duplicates()
        return matrix

    def __len__(self) -> int:
        return len(self.labels)


def unseen_labels(labels: Column, vocabulary: Vocabulary) -> Sequence[tuple[str, int]]:
    """Return (label, rows) for each label that is not in the vocabulary, most frequent first."""
    names = _label_values(labels)[1]
    unknown = pc.invert(pc.is_in(names, value_set=pa.array(vocabulary.labels, names.type)))
    counts = pc.value_counts(pc.filter(names, unknown)).to_pylist()
    return sorted(((entry["values"], entry["counts"]) for entry in counts), key=lambda pair: (-pair[1], pair[0]))


def describe_unseen(unseen: Sequence[tuple[str, int]], labels: Sequence[str], spelling_hint: str) -> str:
    """Return the most frequent of the unseen labels with their rows, for a message.

    Args:
        unseen: (label, rows) for each label, see `unseen_labels`.
        labels: Labels of the vocabulary.
        spelling_hint: What to add if some unseen labels differ only in spelling from those of the vocabulary.
    """
    names = ", ".join(f"'{label}' ({rows})" for label, rows in unseen[:5])
    more = f" and {len(unseen) - 5} more" if len(unseen) > 5 else ""
    known = canonical_spellings([label for label, _ in unseen], labels)
    misspelt = any(label != spelling for label, spelling in known.items())
    return f"{names}{more}{f' ({spelling_hint})' if misspelt else ''}"


def _label_values(labels: Column) -> tuple[np.ndarray, Column]:
    """Return the row of each label, int64 [M], and the labels, [M]."""
    return flatten_lists(labels) if is_list(labels.type) else (np.arange(len(labels)), labels)


def label_counts(targets: Targets, size: int) -> np.ndarray:
    """Return the number of rows of each class or label, int64 [C].

    Args:
        targets: Class numbers, int [N], or label indicators, bool [N, C].
        size: Number of classes or labels, C.
    """
    return np.bincount(targets, minlength=size) if isinstance(targets, np.ndarray) else targets.getnnz(axis=0)
