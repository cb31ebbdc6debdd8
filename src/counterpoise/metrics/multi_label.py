"""Scores of a multi-label classifier of N texts and C labels: of what it decided, and of how it ranks.

Everywhere decided is bool [N, C], logits float [N, C] (any monotone score does), targets csr [N, C] of bool without
explicit zeros, and train_counts int [C] the training positives of each label.

What is undefined is left out of a mean, as in `metrics`, and no number is made up for it:

- A label is *supported* when the split holds a positive of it. Labels that are not count in no mean over labels, but
  as 0 in `macro_f1_all`; where they are predicted all the same, they lower the micro scores.
- A text without labels counts in no mean over texts: sample scores, recall@k, precision@k, nDCG@k, LRAP. It counts in
  the micro scores, and in `subset_accuracy` as right when nothing is predicted.
- A supported label that is never predicted has precision 0, and so has a text with labels and no prediction.

Equal logits are ranked without an order of their own. Average precision and LRAP put all of them at the last place
they take together; scores at k are the mean over all orders of the equal ones (McSherry and Najork 2008). Both as in
scikit-learn. A NaN among the logits makes every score of the ranking NaN.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from counterpoise.metrics.buckets import buckets
from counterpoise.metrics.single_label import Tally, precision_recall_f1

K = (1, 3, 5)
# Logits sorted at a time: the only dense copy that is made.
_CELLS = 2**20


def per_label(
    decided: np.ndarray, logits: np.ndarray, targets: sparse.csr_matrix, train_counts: np.ndarray
) -> pd.DataFrame:
    """Returns one row per label: `train_count, test_count, precision, recall, f1, average_precision`.

    Precision, recall and F1 as in `metrics.precision_recall_f1`. Raises ValueError when shapes do not belong together.
    """
    decided, logits, counts = _checked(decided, logits, targets, train_counts)
    counted = tally(decided, targets)
    precision, recall, f1 = precision_recall_f1(*counted)
    return pd.DataFrame(
        {
            "train_count": counts,
            "test_count": counted.support,
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "average_precision": average_precision(logits, targets),
        }
    )


def tally(decided: np.ndarray, targets: sparse.csr_matrix) -> Tally:
    """Returns the texts of each label: rightly decided, true, decided."""
    hit, labels = decided[_texts(targets), targets.indices], targets.shape[1]
    true_positives, support = (np.bincount(each, minlength=labels) for each in (targets.indices[hit], targets.indices))
    return Tally(true_positives, support, decided.sum(axis=0))


def average_precision(logits: np.ndarray, targets: sparse.csr_matrix) -> np.ndarray:
    """Returns the average precision of each label, float64 [C], NaN where the split holds no positive.

    The mean over the label's positives of the precision among the texts that score at least as high: the area under
    the steps of the precision-recall curve, not interpolated.
    """
    if _unranked(logits):
        return np.full(logits.shape[1], np.nan)
    return _precision_at_the_true(_places(logits.T, targets.T.tocsr()))


def scores(
    decided: np.ndarray,
    logits: np.ndarray,
    targets: sparse.csr_matrix,
    train_counts: np.ndarray,
    tail_max: int = 20,
    head_min: int = 101,
) -> dict[str, float]:
    """Returns the scores of one split, all Python floats; means over nothing are NaN.

    - `micro_precision`, `micro_recall`, `micro_f1`: of all N * C decisions together.
    - `macro_precision`, `macro_recall`, `macro_f1`: means over supported labels; `macro_f1_all`: the sum of F1 over
      supported labels divided by C.
    - `sample_precision`, `sample_recall`, `sample_f1`: of each text's labels, mean over texts with labels.
    - `map`: mean average precision, over supported labels.
    - `subset_accuracy`: texts whose labels are all right, none missing, none too many.
    - `recall_at_k`, `precision_at_k`, `ndcg_at_k` for k = 1, 3, 5 up to C: of the k labels ranked highest, whatever
      was decided. Recall divides by the text's labels, precision by k; nDCG discounts place i by 1 / log2(i + 1) and
      divides by the best that the text's labels allow (Järvelin and Kekäläinen 2002).
    - `lrap`: label ranking average precision: the mean over texts with labels of the mean over the text's labels of
      the precision among the labels that score at least as high.
    - `head_recall`, `head_precision`, `head_f1`, `head_ap`, and for medium and tail: means over the supported labels
      of a bucket (`metrics.buckets`); left out when the bucket has none.
    - `supported_labels`, `labels`: how many; `labels_per_text`, `predicted_per_text`: means over all texts.

    Raises ValueError for a split without texts, and when shapes do not belong together.
    """
    decided, logits, counts = _checked(decided, logits, targets, train_counts)
    if not len(decided):
        raise ValueError("the split holds no text: there is nothing to score")
    table = per_label(decided, logits, targets, counts)
    supported = table[table.test_count > 0].rename(columns={"average_precision": "ap"})

    hit = decided[_texts(targets), targets.indices]
    true_positives = np.bincount(_texts(targets)[hit], minlength=len(decided))
    support, predicted = np.diff(targets.indptr), decided.sum(axis=1)
    labelled = support > 0
    micro = precision_recall_f1(*(np.array([values.sum()]) for values in (true_positives, support, predicted)))
    sample = precision_recall_f1(true_positives[labelled], support[labelled], predicted[labelled])

    result = {f"micro_{name}": value[0] for name, value in zip(_MEASURES, micro, strict=True)}
    result |= {f"macro_{name}": _mean(supported[name]) for name in _MEASURES}
    result |= {f"sample_{name}": _mean(value) for name, value in zip(_MEASURES, sample, strict=True)}
    result |= {
        "macro_f1_all": supported.f1.sum() / len(table) if len(supported) else np.nan,
        "map": _mean(supported.ap),
        "subset_accuracy": ((true_positives == support) & (true_positives == predicted)).mean(),
        **_ranking(logits, targets),
    }
    bucket = buckets(supported.train_count.to_numpy(), tail_max, head_min)
    for name in ("head", "medium", "tail"):
        members = supported[bucket == name]
        if len(members):
            result |= {f"{name}_{measure}": members[measure].mean() for measure in ("recall", "precision", "f1", "ap")}
    result |= {
        "supported_labels": len(supported),
        "labels": len(table),
        "labels_per_text": support.mean(),
        "predicted_per_text": predicted.mean(),
    }
    return {name: float(value) for name, value in result.items()}


_MEASURES = ("precision", "recall", "f1")


@dataclass(frozen=True)
class _Places:
    """The places that the true cells of a csr [L, W] take among the scores of their line, int64 [nnz] each.

    Lines in their order, the true cells of each in ascending order of score. line: which; true: true cells of the line;
    above: cells of the line that score higher; reached: at least as high; true_reached: true cells that do.
    """

    lines: int
    line: np.ndarray
    true: np.ndarray
    above: np.ndarray
    reached: np.ndarray
    true_reached: np.ndarray

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Returns the mean of values float [nnz] over the true cells of each line, [L], NaN where there are none."""
        counts = np.bincount(self.line, minlength=self.lines)
        sums = np.bincount(self.line, values, minlength=self.lines)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _places(scores: np.ndarray, targets: sparse.csr_matrix) -> _Places:
    """Returns the places of the true cells of targets csr [L, W] among scores [L, W], sorting a block at a time."""
    starts, cells, width = targets.indptr, targets.indices, scores.shape[1]
    sizes = np.diff(starts)
    lines = np.flatnonzero(sizes)
    above, reached, true_reached = np.empty((3, len(cells)), np.int64)
    step = max(1, _CELLS // max(width, 1))
    for first in range(0, len(lines), step):
        part = lines[first : first + step]
        block = np.ascontiguousarray(scores[part])
        for line, values, ascending in zip(part, block, np.sort(block, axis=1), strict=True):
            own = slice(starts[line], starts[line + 1])
            true = np.sort(values[cells[own]])
            above[own] = width - ascending.searchsorted(true, "right")
            reached[own] = width - ascending.searchsorted(true, "left")
            true_reached[own] = len(true) - true.searchsorted(true, "left")
    line = np.repeat(np.arange(len(sizes)), sizes)
    return _Places(len(sizes), line, sizes[line], above, reached, true_reached)


def _precision_at_the_true(places: _Places) -> np.ndarray:
    """Returns average precision [L]: of labels where lines are labels, LRAP of each text where they are texts."""
    return places.mean(places.true_reached / places.reached)


def _ranking(logits: np.ndarray, targets: sparse.csr_matrix) -> dict[str, float]:
    """Returns `recall_at_k`, `precision_at_k`, `ndcg_at_k` and `lrap`."""
    shown = [k for k in K if k <= logits.shape[1]]
    names = [f"{name}_at_{k}" for name in ("recall", "precision", "ndcg") for k in shown]
    if _unranked(logits):
        return dict.fromkeys([*names, "lrap"], np.nan)
    places = _places(logits, targets)
    gains = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(2, max(K) + 2)))])
    tied = places.reached - places.above
    result = dict.fromkeys(names, np.nan)
    for k in shown:
        # A true cell takes each of the places above + 1 ... reached equally often.
        first, last = np.minimum(places.above, k), np.minimum(places.reached, k)
        found, gained = (last - first) / tied, (gains[last] - gains[first]) / tied
        result[f"recall_at_{k}"] = _mean(places.mean(found))
        result[f"precision_at_{k}"] = _mean(places.mean(found * places.true / k))
        result[f"ndcg_at_{k}"] = _mean(places.mean(gained * places.true / gains[np.minimum(places.true, k)]))
    return result | {"lrap": _mean(_precision_at_the_true(places))}


def _checked(
    decided: np.ndarray, logits: np.ndarray, targets: sparse.csr_matrix, train_counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the dense arguments as arrays; raises ValueError when shapes do not belong together."""
    decided, logits, counts = np.asarray(decided, bool), np.asarray(logits), np.asarray(train_counts, np.int64)
    if not decided.shape == logits.shape == targets.shape or counts.shape != targets.shape[1:]:
        raise ValueError(
            "expected decided, logits and targets [N, C] and train_counts [C], "
            f"got {decided.shape}, {logits.shape}, {targets.shape}, {counts.shape}"
        )
    return decided, logits, counts


def _texts(targets: sparse.csr_matrix) -> np.ndarray:
    """Returns the row of each true cell, int64 [nnz]."""
    return np.repeat(np.arange(targets.shape[0]), np.diff(targets.indptr))


def _unranked(logits: np.ndarray) -> bool:
    return bool(logits.size and np.isnan(logits.max()))


def _mean(values: np.ndarray | pd.Series) -> float:
    """Returns the mean of the values that are defined, NaN when none is."""
    known = np.asarray(values)
    known = known[~np.isnan(known)]
    return known.mean() if len(known) else np.nan
