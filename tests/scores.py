"""All metrics of given decisions, as an evaluation measures them."""

from typing import Any

import numpy as np
from scipy import sparse

from counterpoise.metrics.buckets import Bounds
from counterpoise.metrics.class_counts import ClassCounts
from counterpoise.metrics.multi_label import count_labels
from counterpoise.metrics.registry import evaluate
from counterpoise.metrics.split import EvaluatedSplit


def confusion_counts(confusion: np.ndarray) -> ClassCounts:
    """Return the class counts of a confusion matrix, int [C, C] (rows truth, columns prediction)."""
    return ClassCounts(np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0))


def single_label_scores(
    counts: ClassCounts, train_counts: np.ndarray, tail_max: int = 20, head_min: int = 101
) -> dict[str, float]:
    return evaluate(EvaluatedSplit("single_label", counts, np.asarray(train_counts), Bounds(tail_max, head_min)))


def multi_label_scores(
    decided: np.ndarray,
    logits: np.ndarray,
    targets: sparse.csr_matrix,
    train_counts: np.ndarray,
    *bounds: int,
    **options: Any,
) -> dict[str, float]:
    counts = count_labels(decided, targets)
    found = Bounds(*bounds, **options)
    return evaluate(EvaluatedSplit("multi_label", counts, np.asarray(train_counts), found, logits, targets, decided))
