"""A split that is stratified by several labels at once, and leaves groups of rows whole."""

import numpy as np
from scipy.sparse import csr_matrix, hstack

MAX_READS = 2 * 10**8
"""Work that `iterative_split` spends on its last step, in matrix entries read: under a second."""


def iterative_split(
    targets: csr_matrix, fraction: float, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (kept, held_out), the sorted row numbers of a seeded split that is stratified by every label.

    Iterative stratification (Sechidis et al., ECML PKDD 2011, algorithm 1): the label with the fewest rows left
    comes first, and of these rows `fraction` of all that have the label, less what was already held out with other
    labels, is held out at random, rounded to the nearest whole number (halves up). All rows of a label are dealt at
    once; rows without labels are one more stratum. Then single rows change sides, the best first, as long as that
    brings the counts of the labels, and of rows, nearer to what was asked for (Pearson's chi-square).

    Every label that has a row stays in the kept part. With `groups` (int [N]), "row" above reads "group of rows",
    and one that is too large for the part held out is kept: there may be nothing that can be held out.

    targets: bool [N, C], without explicit zeros. fraction: of each label and of the rows, in [0, 1).
    """
    rng = np.random.default_rng(seed)
    units = np.arange(targets.shape[0]) if groups is None else np.unique(groups, return_inverse=True)[1]
    counts = _unit_counts(targets, units)
    held = _assign_by_label(counts[:, :-1].tocsr(), fraction, rng)
    _return_to_kept(counts, held)
    _move_single_units(counts, held, fraction)
    rows = held[units]
    return np.flatnonzero(~rows), np.flatnonzero(rows)


def _unit_counts(targets: csr_matrix, units: np.ndarray) -> csr_matrix:
    """Returns what each unit (its number for each row: int [N]) holds of all labels, int64 [U, C + 2].

    The two last columns are its rows without labels, and its rows.
    """
    total = targets.shape[0]
    bare = csr_matrix((np.diff(targets.indptr) == 0).astype(np.int64)[:, None])
    per_row = hstack([targets.astype(np.int64), bare, csr_matrix(np.ones((total, 1), np.int64))], format="csr")
    members = csr_matrix((np.ones(total, np.int64), (units, np.arange(total))), (int(units.max(initial=-1)) + 1, total))
    return (members @ per_row).tocsr()


def _assign_by_label(counts: csr_matrix, fraction: float, rng: np.random.Generator) -> np.ndarray:
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
        out = _select_up_to(sizes, wanted[c])[: len(units) - (kept[c] == 0)]
        stay = np.delete(units, out)
        held[units[out]], free[units] = True, False
        taken, given = (np.asarray(counts[each].sum(0)).ravel() for each in (units[out], stay))
        wanted, kept, left = wanted - taken, kept + given, left - taken - given
    return held


def _select_up_to(sizes: np.ndarray, wanted: float) -> np.ndarray:
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


def _move_single_units(counts: csr_matrix, held: np.ndarray, fraction: float) -> None:
    """Lets units change sides, the best first, while that lessens sum_c (held_c - fraction * n_c)^2 / n_c.

    No label loses its last unit in the kept part.
    """
    totals = np.asarray(counts.sum(0)).ravel()
    scale = 1 / np.maximum(totals, 1)
    surplus = counts.T @ held.astype(np.float64) - fraction * totals
    present = counts.astype(bool).astype(np.int64)
    kept_units = present.T @ (~held).astype(np.int64)
    own = counts.multiply(counts) @ scale
    for _ in range(MAX_READS // counts.nnz if counts.nnz else 0):
        direction = np.where(held, -1.0, 1.0)
        change = 2 * direction * (counts @ (scale * surplus)) + own
        unit = int(change.argmin())
        if change[unit] > -1e-9:
            break
        span = slice(counts.indptr[unit], counts.indptr[unit + 1])
        labels = counts.indices[span]
        if not held[unit] and (kept_units[labels] == 1).any():
            own[unit] = np.inf
            continue
        surplus[labels] += direction[unit] * counts.data[span]
        kept_units[labels] -= int(direction[unit])
        held[unit] = ~held[unit]
