"""Stratified splits and the label vocabulary."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix, hstack

from counterpoise.balance.samplers import ClassIndex, Targets
from counterpoise.data.columns import Column, flattened, is_list

PATIENCE = 10**8
"""Work that `iterative_split` spends on its last step, in matrix entries read: under a second."""

PAIRS = 8
"""Units for which it looks for a second one to change sides with, where none does any good alone."""


def split_off(
    targets: Targets, fraction: float, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (kept, held_out), the sorted row numbers of a split that suits the targets; groups stay whole."""
    if isinstance(targets, np.ndarray):
        if groups is None:
            return stratified_split(targets, fraction, seed)
        rows = np.arange(len(targets))
        shape = len(targets), int(targets.max(initial=0)) + 1
        targets = csr_matrix((np.ones(len(targets), bool), (rows, targets)), shape)
    return iterative_split(targets, fraction, seed, groups)


def stratified_split(classes: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (kept, held_out), the sorted row numbers of both parts of a seeded, stratified split.

    Of the n rows of a class, n * fraction are held out, rounded to the nearest whole number (halves up) and at most
    n - 1: every class stays in the kept part, a class with a single row is there only, and at a fraction of 0.1 it
    takes five rows for one to be held out.

    classes: int [N]. fraction: of each class, in [0, 1).
    """
    rng = np.random.default_rng(seed)
    index = ClassIndex.of(classes, int(classes.max(initial=-1)) + 1)
    sizes = np.minimum(np.floor(index.counts * fraction + 0.5), np.maximum(index.counts - 1, 0)).astype(np.int64)
    parts = [rng.choice(index.members(c), sizes[c], replace=False) for c in np.flatnonzero(sizes)]
    held_out = np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64)
    kept = np.ones(len(classes), bool)
    kept[held_out] = False
    return np.flatnonzero(kept), held_out


def iterative_split(
    targets: csr_matrix, fraction: float, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (kept, held_out), the sorted row numbers of a seeded split that is stratified by every label.

    Iterative stratification (Sechidis et al., ECML PKDD 2011, algorithm 1): the label with the fewest rows left
    comes first, and of these rows `fraction` of all that have the label, less what was already held out with other
    labels, is held out at random, rounded to the nearest whole number (halves up). All rows of a label are dealt at
    once; rows without labels are one more stratum. Then rows change sides, alone or two at once, the best first, as
    long as that brings the counts of the labels, and of rows, nearer to what was asked for (chi-square).

    Every label that has a row stays in the kept part. With `groups` (int [N]), "row" above reads "group of rows",
    and one that is too large for the part held out is kept: there may be nothing that can be held out.

    targets: bool [N, C], without explicit zeros. fraction: of each label and of the rows, in [0, 1).
    """
    rng = np.random.default_rng(seed)
    units = np.arange(targets.shape[0]) if groups is None else np.unique(groups, return_inverse=True)[1]
    counts = _unit_counts(targets, units)
    held = _deal_by_label(counts[:, :-1].tocsr(), fraction, rng)
    _return_to_kept(counts, held)
    _exchange(counts, held, fraction)
    rows = held[units]
    return np.flatnonzero(~rows), np.flatnonzero(rows)


@dataclass(frozen=True)
class Vocabulary:
    """The classes of the training data: position in `labels` = class number = column of the logits."""

    labels: list[str]

    @classmethod
    def of(cls, labels: Column) -> "Vocabulary":
        """Returns the distinct labels in order: as numbers if all are whole numbers, else as text.

        labels: string [N], or list<string> [N].
        """
        names = pc.unique(_each(labels)[1]).to_pylist()
        whole = all(name.removeprefix("-").isdecimal() for name in names)
        return cls(sorted(names, key=(lambda name: (int(name), name)) if whole else None))

    def encode(self, labels: Column) -> Targets:
        """Returns the class numbers, int64 [N], with -1 for labels that are not in the vocabulary.

        Of lists of labels, it returns which labels each row has, bool [N, C], and leaves out the unknown ones.
        """
        rows, names = _each(labels)
        found = pc.index_in(names, value_set=pa.array(self.labels, names.type))
        numbers = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        if not is_list(labels.type):
            return numbers
        known = numbers >= 0
        places = (rows[known], numbers[known])
        return csr_matrix((np.ones(known.sum(), bool), places), (len(labels), len(self.labels)))

    def __len__(self) -> int:
        return len(self.labels)


def unseen(labels: Column, vocabulary: Vocabulary) -> Sequence[tuple[str, int]]:
    """Returns (label, rows) of the labels that are not in the vocabulary, most frequent first."""
    names = _each(labels)[1]
    unknown = pc.invert(pc.is_in(names, value_set=pa.array(vocabulary.labels, names.type)))
    counts = pc.value_counts(pc.filter(names, unknown)).to_pylist()
    return sorted(((entry["values"], entry["counts"]) for entry in counts), key=lambda pair: (-pair[1], pair[0]))


def _each(labels: Column) -> tuple[np.ndarray, Column]:
    """Returns the row of each label, int64 [M], and the labels, [M]."""
    return flattened(labels) if is_list(labels.type) else (np.arange(len(labels)), labels)


def _unit_counts(targets: csr_matrix, units: np.ndarray) -> csr_matrix:
    """Returns what each unit (its number for each row: int [N]) holds of all labels, int64 [U, C + 2].

    The two last columns are its rows without labels, and its rows.
    """
    total = targets.shape[0]
    bare = csr_matrix((np.diff(targets.indptr) == 0).astype(np.int64)[:, None])
    per_row = hstack([targets.astype(np.int64), bare, csr_matrix(np.ones((total, 1), np.int64))], format="csr")
    members = csr_matrix((np.ones(total, np.int64), (units, np.arange(total))), (int(units.max(initial=-1)) + 1, total))
    return (members @ per_row).tocsr()


def _deal_by_label(counts: csr_matrix, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Returns which units are held out, bool [U]. counts: int64 [U, strata], how much of each stratum a unit holds."""
    by_stratum = counts.tocsc()
    left = np.asarray(counts.sum(0)).ravel()
    wanted = left * fraction
    kept = np.zeros_like(left)
    free, held = np.ones(counts.shape[0], bool), np.zeros(counts.shape[0], bool)
    while (left > 0).any():
        c = int(np.where(left > 0, left, left.max() + 1).argmin())
        span = slice(by_stratum.indptr[c], by_stratum.indptr[c + 1])
        open_ = np.flatnonzero(free[by_stratum.indices[span]])
        open_ = rng.permutation(open_)
        units, sizes = by_stratum.indices[span][open_], by_stratum.data[span][open_]
        out = _fill(sizes, wanted[c])[: len(units) - (kept[c] == 0)]
        stay = np.delete(units, out)
        held[units[out]], free[units] = True, False
        taken, given = (np.asarray(counts[each].sum(0)).ravel() for each in (units[out], stay))
        wanted, kept, left = wanted - taken, kept + given, left - taken - given
    return held


def _fill(sizes: np.ndarray, wanted: float) -> np.ndarray:
    """Returns positions, int64, in order: each whose size is wanted by at least a half after those before it."""
    taken = []
    open_ = np.arange(len(sizes))
    while len(open_ := open_[sizes[open_] <= 2 * wanted + 1e-9]):
        ends = np.cumsum(sizes[open_])
        fits = 2 * ends - sizes[open_] <= 2 * wanted + 1e-9
        stop = len(open_) if fits.all() else int(fits.argmin())
        taken.append(open_[:stop])
        open_, wanted = open_[stop:], wanted - ends[stop - 1]
    return np.concatenate(taken) if taken else np.empty(0, np.int64)


def _return_to_kept(counts: csr_matrix, held: np.ndarray) -> None:
    """Returns to the kept part, for each label that it lacks, the smallest unit that has it."""
    by_label = counts.tocsc()
    rows = counts[:, -1].toarray().ravel()
    for c in range(counts.shape[1]):
        units = by_label.indices[by_label.indptr[c] : by_label.indptr[c + 1]]
        if len(units) and held[units].all():
            held[units[rows[units].argmin()]] = False


def _exchange(counts: csr_matrix, held: np.ndarray, fraction: float) -> None:
    """Lets units change sides, alone or two at once, while that lessens sum_c (held_c - fraction * n_c)^2 / n_c.

    No label loses its last unit in the kept part.
    """
    totals = np.asarray(counts.sum(0)).ravel()
    scale = 1 / np.maximum(totals, 1)
    surplus = counts.T @ held.astype(np.float64) - fraction * totals
    kept_units = counts.astype(bool).astype(np.int64).T @ (~held).astype(np.int64)
    own = counts.multiply(counts) @ scale

    def changes() -> np.ndarray:
        return 2 * np.where(held, -1.0, 1.0) * (counts @ (scale * surplus)) + own

    def move(unit: int) -> bool:
        span = slice(counts.indptr[unit], counts.indptr[unit + 1])
        labels, sign = counts.indices[span], -1 if held[unit] else 1
        if sign == 1 and (kept_units[labels] == 1).any():
            return False
        surplus[labels] += sign * counts.data[span]
        kept_units[labels] -= sign
        held[unit] = ~held[unit]
        return True

    work = PATIENCE // max(counts.nnz, 1) if len(held) else 0
    while work > 0:
        alone = changes()
        work -= 1
        for unit in _lowest(alone):
            if not move(unit):
                continue
            if alone[unit] < -1e-9:
                break
            after = changes()
            work -= 1
            other = int(after.argmin())
            if alone[unit] + after[other] < -1e-9 and move(other):
                break
            move(unit)
        else:
            return


def _lowest(changes: np.ndarray) -> Iterator[int]:
    """Yields the units of the lowest changes, one for each: those that hold the same labels are alike."""
    yield int(changes.argmin())
    yield from np.unique(changes, return_index=True)[1][1:PAIRS]
