"""Split that is stratified by several labels and does not divide groups of rows."""

import numpy as np
from scipy.sparse import csr_matrix, hstack

MAX_READS = 2 * 10**8
"""Maximum number of matrix entries that the local search of `iterative_split` reads: less than a second."""


def iterative_split(
    targets: csr_matrix, fraction: float, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into a kept and a held-out part, stratified by every label.

    Labels are processed in the order of their remaining rows, rarest first. Of the rows of a label, `fraction` of all
    rows with this label, minus those already held out, are held out at random, rounded to the nearest whole number
    (halves up). Rows without labels are one more stratum. Then a local search moves single rows between the parts, best
    first, while this brings the label counts and the size closer to the target (Pearson's chi-square).

    Every label keeps at least one row in the kept part. With `groups`, whole groups are moved instead of rows. A group
    that is too large for the held-out part is kept, so the held-out part may be empty.

    Args:
        targets: Label indicators, bool [N, C], without explicit zeros.
        fraction: Fraction of each label and of the rows to hold out, in [0, 1).
        seed: Seed of the split.
        groups: Group number of each row, int [N]. Defaults to none.

    Returns:
        (kept, held_out): sorted row numbers.

    References:
        Sechidis et al., On the stratification of multi-label data, ECML PKDD 2011, algorithm 1.
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
    """Return the label counts of each unit (group of rows), int64 [U, C + 2].

    The last two columns count the rows without labels and all rows. `units` is the unit of each row, int [N].
    """
    total = targets.shape[0]
    bare = csr_matrix((np.diff(targets.indptr) == 0).astype(np.int64)[:, None])
    per_row = hstack([targets.astype(np.int64), bare, csr_matrix(np.ones((total, 1), np.int64))], format="csr")
    members = csr_matrix((np.ones(total, np.int64), (units, np.arange(total))), (int(units.max(initial=-1)) + 1, total))
    return (members @ per_row).tocsr()


def _assign_by_label(counts: csr_matrix, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Return which units are held out, bool [U]. `counts`: rows of each stratum in each unit, int64 [U, strata]."""
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
    """Return the positions of the units to hold out, in order: each must be wanted by at least half its size."""
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
    """Move the smallest unit of each label that is absent from the kept part back to it, in place."""
    by_label = counts.tocsc()
    rows = counts[:, -1].toarray().ravel()
    for c in range(counts.shape[1]):
        units = by_label.indices[by_label.indptr[c] : by_label.indptr[c + 1]]
        if len(units) and held[units].all():
            held[units[rows[units].argmin()]] = False


def _move_single_units(counts: csr_matrix, held: np.ndarray, fraction: float) -> None:
    """Move units between the parts, best first, while that decreases sum_c (held_c - fraction * n_c)^2 / n_c. In place.

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
