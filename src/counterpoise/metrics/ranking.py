"""Ranking metrics of multi-label logits: average precision, LRAP, and recall, precision and nDCG at k.

Logits are float [N, C] (any monotone score does) and targets bool csr [N, C] without explicit zeros. Tied logits have
no order: average precision and LRAP place all of them at the last rank they share, as scikit-learn does; scores at k
are the mean over all orders of the ties (McSherry and Najork 2008). A NaN among the logits makes every score NaN.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

K = (1, 3, 5)
"""Cut-offs of the scores at k."""
# Logits per sorted block: the only dense copy in memory.
_BLOCK_CELLS = 2**20


def average_precision(logits: np.ndarray, targets: sparse.csr_matrix) -> np.ndarray:
    """Compute the average precision of each label.

    Average precision is the mean over the positives of a label of the precision among the texts that score at least
    as high: the area under the steps of the precision-recall curve, without interpolation.

    Args:
        logits: Float [N, C].
        targets: Bool csr [N, C].

    Returns:
        Float64 [C]; NaN for labels without positives.
    """
    if _has_nan(logits):
        return np.full(logits.shape[1], np.nan)
    return _mean_precision(_rank_positives(logits.T, targets.T.tocsr()))


def ranking_scores(logits: np.ndarray, targets: sparse.csr_matrix) -> dict[str, float]:
    """Compute `recall_at_k`, `precision_at_k` and `ndcg_at_k` for each k in `K` up to C, and `lrap`.

    All are means over the texts that have labels. Recall divides by the number of labels of the text, precision by k.
    nDCG discounts rank i by 1 / log2(i + 1) and divides by the best possible value (Järvelin and Kekäläinen 2002).
    LRAP is the mean over the labels of a text of the precision among the labels that score at least as high.

    Args:
        logits: Float [N, C].
        targets: Bool csr [N, C].

    Returns:
        The scores by name; NaN if no text has labels.
    """
    cutoffs = [k for k in K if k <= logits.shape[1]]
    names = [f"{name}_at_{k}" for name in ("recall", "precision", "ndcg") for k in cutoffs]
    if _has_nan(logits):
        return dict.fromkeys([*names, "lrap"], np.nan)
    ranks = _rank_positives(logits, targets)
    gains = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(2, max(K) + 2)))])
    tied = ranks.at_least - ranks.above
    result = dict.fromkeys(names, np.nan)
    for k in cutoffs:
        # A positive takes each of the ranks above + 1 ... at_least equally often.
        first, last = np.minimum(ranks.above, k), np.minimum(ranks.at_least, k)
        found, gained = (last - first) / tied, (gains[last] - gains[first]) / tied
        result[f"recall_at_{k}"] = mean_of_known(ranks.mean(found))
        result[f"precision_at_{k}"] = mean_of_known(ranks.mean(found * ranks.positives / k))
        best = gains[np.minimum(ranks.positives, k)]
        result[f"ndcg_at_{k}"] = mean_of_known(ranks.mean(gained * ranks.positives / best))
    return result | {"lrap": mean_of_known(_mean_precision(ranks))}


def mean_of_known(values: np.ndarray | pd.Series) -> float:
    """Return the mean of the values that are not NaN, NaN if there is none."""
    known = np.asarray(values)
    known = known[~np.isnan(known)]
    return known.mean() if len(known) else np.nan


@dataclass(frozen=True)
class _Ranks:
    """Ranks of the positive cells of a matrix within their rows, int64 [nnz] each.

    Cells follow the order of the rows and, within a row, ascending scores.

    Args:
        num_rows: Rows of the matrix.
        row: Row of the cell.
        positives: Positive cells of the row.
        above: Cells of the row with a higher score.
        at_least: Cells of the row with at least the same score.
        positives_at_least: Positive cells of the row with at least the same score.
    """

    num_rows: int
    row: np.ndarray
    positives: np.ndarray
    above: np.ndarray
    at_least: np.ndarray
    positives_at_least: np.ndarray

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of float [nnz] over the positives of each row; NaN for rows without any."""
        counts = np.bincount(self.row, minlength=self.num_rows)
        sums = np.bincount(self.row, values, minlength=self.num_rows)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _rank_positives(scores: np.ndarray, targets: sparse.csr_matrix) -> _Ranks:
    """Rank the positive cells of csr [R, W] among scores [R, W], one block of rows at a time."""
    starts, cells, width = targets.indptr, targets.indices, scores.shape[1]
    sizes = np.diff(starts)
    rows = np.flatnonzero(sizes)
    above, at_least, positives_at_least = np.empty((3, len(cells)), np.int64)
    step = max(1, _BLOCK_CELLS // max(width, 1))
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        block = np.ascontiguousarray(scores[part])
        for row, values, ascending in zip(part, block, np.sort(block, axis=1), strict=True):
            own = slice(starts[row], starts[row + 1])
            positives = np.sort(values[cells[own]])
            above[own] = width - ascending.searchsorted(positives, "right")
            at_least[own] = width - ascending.searchsorted(positives, "left")
            positives_at_least[own] = len(positives) - positives.searchsorted(positives, "left")
    row = np.repeat(np.arange(len(sizes)), sizes)
    return _Ranks(len(sizes), row, sizes[row], above, at_least, positives_at_least)


def _mean_precision(ranks: _Ranks) -> np.ndarray:
    """Return the mean precision at the positives of each row: average precision of labels, LRAP of texts."""
    return ranks.mean(ranks.positives_at_least / ranks.at_least)


def _has_nan(logits: np.ndarray) -> bool:
    return bool(logits.size and np.isnan(logits.max()))
