"""Scores of a single-label classifier, as functions of its confusion matrix and the training counts.

A confusion matrix is int64 [C, C]: rows are the truth, columns the prediction. Of thousands of classes that is
hundreds of MB, and scores need no more than its `Tally`. A class is *supported* when
the evaluated split holds at least one example of it. Rare classes are often absent from a split, and nothing
can be said about their recall there: they are left out of every mean here except `macro_f1_all`.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from counterpoise.metrics.buckets import buckets


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns int64 [C, C] (rows truth, columns prediction) of class numbers, both int [N]."""
    cells = np.bincount(truth * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


class Tally(NamedTuple):
    """How many examples of each class are decided rightly, are true, are predicted: int64 [C] each."""

    true_positives: np.ndarray
    support: np.ndarray
    predicted: np.ndarray

    @classmethod
    def of(cls, truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> "Tally":
        """Returns the tally of class numbers, both int [N]."""
        right = truth[truth == predicted]
        return cls(*(np.bincount(each, minlength=num_classes) for each in (right, truth, predicted)))


def per_class(outcome: Tally | np.ndarray, train_counts: np.ndarray) -> pd.DataFrame:
    """Returns one row per class: `train_count, test_count, precision, recall, f1`, as in `precision_recall_f1`.

    outcome: a tally, or a confusion matrix.
    """
    tally, counts = _checked(outcome, train_counts)
    precision, recall, f1 = precision_recall_f1(*tally)
    return pd.DataFrame(
        {"train_count": counts, "test_count": tally.support, "precision": precision, "recall": recall, "f1": f1}
    )


def precision_recall_f1(
    true_positives: np.ndarray, support: np.ndarray, predicted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns precision, recall and F1, float64 [C] each, of counts int [C]: right, true and predicted examples.

    A supported class that is never predicted has precision 0. A class absent from the split has recall and F1
    NaN; its precision is 0 when it was predicted all the same, and NaN when it was not.
    """
    precision = _ratio(true_positives, predicted, otherwise=np.where(support > 0, 0.0, np.nan))
    recall = _ratio(true_positives, support, otherwise=np.nan)
    f1 = np.where(support > 0, _ratio(2 * true_positives, support + predicted, otherwise=np.nan), np.nan)
    return precision, recall, f1


def scores(
    outcome: Tally | np.ndarray, train_counts: np.ndarray, tail_max: int = 20, head_min: int = 101
) -> dict[str, float]:
    """Returns the scores of one split, all Python floats. Raises ValueError for a split without examples.

    outcome: a tally, or a confusion matrix.

    - `accuracy`, and `micro_f1`, which is the same number when every example has one label.
    - `balanced_accuracy`: mean recall over supported classes, as in scikit-learn; `macro_recall` is the same
      number.
    - `macro_precision`, `macro_recall`, `macro_f1`: means over supported classes. scikit-learn's
      `average="macro"` also averages over classes that are absent from the split but predicted, with F1 0, so
      that a mean's denominator depends on the model; its `labels=` argument with the supported classes gives
      the numbers here.
    - `macro_f1_all`: the sum of F1 over all C classes, absent ones counting 0, divided by C.
    - `weighted_precision`, `weighted_recall`, `weighted_f1`: means weighted by the examples of each class.
    - `mcc`: the multi-class correlation R_K of Gorodkin 2004; 0 when truth or prediction is constant.
    - `worst_recall`: the lowest recall of a supported class.
    - `head_recall`, `medium_recall`, `tail_recall`: mean recall over the supported classes of a bucket (see
      `buckets`); left out when the bucket has none.
    - `supported_classes`, `classes`: how many.
    - `majority_accuracy`, `majority_macro_f1`: what always predicting the largest training class scores here.
    """
    tally, counts = _checked(outcome, train_counts)
    total = tally.support.sum()
    if total == 0:
        raise ValueError("the split holds no example: there is nothing to score")
    table = per_class(tally, counts)
    supported = tally.support > 0
    present = table[supported]
    share = present.test_count / total
    macro = present[["precision", "recall", "f1"]].mean()
    weighted = present[["precision", "recall", "f1"]].mul(share, axis=0).sum()
    accuracy = tally.true_positives.sum() / total

    majority = int(np.argmax(counts))
    found = tally.support[majority]
    majority_f1 = 2 * found / (found + total) if found else 0.0

    result = {
        "accuracy": accuracy,
        "balanced_accuracy": macro.recall,
        "macro_precision": macro.precision,
        "macro_recall": macro.recall,
        "macro_f1": macro.f1,
        "macro_f1_all": present.f1.sum() / len(table),
        "weighted_precision": weighted.precision,
        "weighted_recall": weighted.recall,
        "weighted_f1": weighted.f1,
        "micro_f1": accuracy,
        "mcc": _mcc(tally),
        "worst_recall": present.recall.min(),
        "supported_classes": supported.sum(),
        "classes": len(table),
        "majority_accuracy": found / total,
        "majority_macro_f1": majority_f1 / supported.sum(),
    }
    bucket = buckets(counts, tail_max, head_min)
    for name in ("head", "medium", "tail"):
        recalls = table.recall[supported & (bucket == name)]
        if len(recalls):
            result[f"{name}_recall"] = recalls.mean()
    return {name: float(value) for name, value in result.items()}


def _checked(outcome: Tally | np.ndarray, train_counts: np.ndarray) -> tuple[Tally, np.ndarray]:
    """Returns the tally and the counts as int64; raises ValueError when their shapes do not belong together."""
    counts = np.asarray(train_counts, dtype=np.int64)
    if not isinstance(outcome, Tally):
        confusion = np.asarray(outcome, dtype=np.int64)
        if confusion.shape != (len(counts), len(counts)):
            raise ValueError(f"expected confusion [C, C] and train_counts [C], got {confusion.shape}, {counts.shape}")
        outcome = Tally(np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0))
    if any(each.shape != counts.shape for each in outcome):
        raise ValueError(f"expected a tally of {len(counts)} classes, got {[each.shape for each in outcome]}")
    return outcome, counts


def _ratio(top: np.ndarray, bottom: np.ndarray, otherwise: float | np.ndarray) -> np.ndarray:
    """Returns top / bottom as float64 [C], and `otherwise` where bottom is 0."""
    return np.where(bottom > 0, top / np.maximum(bottom, 1), otherwise)


def _mcc(tally: Tally) -> float:
    """Returns R_K (Gorodkin 2004, eq. 8) in the form of covariances of one-hot truth and prediction."""
    # Sums of squares of counts pass 2^63 for large splits once multiplied: float64 from here on.
    truth = tally.support.astype(np.float64)
    predicted = tally.predicted.astype(np.float64)
    total = truth.sum()
    spread_truth = total**2 - truth @ truth
    spread_predicted = total**2 - predicted @ predicted
    if spread_truth == 0 or spread_predicted == 0:
        return 0.0
    covariance = total * tally.true_positives.sum() - truth @ predicted
    return covariance / np.sqrt(spread_truth) / np.sqrt(spread_predicted)
