"""Metrics of single-label classification, functions of class counts. See also `metrics/averages.py`.

A class is supported if the evaluated split holds at least one example of it.
"""

import numpy as np
import pandas as pd

from counterpoise.metrics.averages import class_mean
from counterpoise.metrics.class_counts import ClassCounts, precision_recall_f1
from counterpoise.metrics.registry import CountAverage, metric
from counterpoise.metrics.split import EvaluatedSplit


def per_class(counts: ClassCounts, train_counts: np.ndarray) -> pd.DataFrame:
    """Return one row per class: `train_count, test_count, precision, recall, f1`.

    Args:
        counts: Class counts of the evaluated split.
        train_counts: Training examples of each class, int [C].

    Raises:
        ValueError: The shapes do not match.
    """
    train = np.asarray(train_counts, dtype=np.int64)
    if any(each.shape != train.shape for each in counts):
        raise ValueError(f"expected counts of {len(train)} classes, got {[each.shape for each in counts]}")
    precision, recall, f1 = precision_recall_f1(*counts)
    return pd.DataFrame(
        {"train_count": train, "test_count": counts.support, "precision": precision, "recall": recall, "f1": f1}
    )


@metric(
    task="single_label",
    shown={"results": 10, "leaderboard": 70, "headline": 30, "comparison": 30},
    resampling=CountAverage("recall", "micro"),
)
def accuracy(split: EvaluatedSplit) -> float:
    """Fraction of texts whose class is predicted."""
    return split.counts.true_positives.sum() / split.counts.support.sum()


@metric(
    task="single_label",
    shown={"results": 20, "leaderboard": 60, "headline": 20, "comparison": 20},
    resampling=CountAverage("recall", "macro"),
)
def balanced_accuracy(split: EvaluatedSplit) -> float:
    """Mean recall over supported classes, as in scikit-learn."""
    return class_mean(split.by_class["recall"][split.supported])


@metric(task="single_label", same_as="balanced_accuracy", shown={})
def macro_recall(split: EvaluatedSplit) -> float:
    """Mean recall over supported classes: another name of balanced accuracy."""
    return balanced_accuracy(split)


@metric("micro F1", task="single_label", same_as="accuracy", shown={})
def micro_f1(split: EvaluatedSplit) -> float:
    """F1 of all decisions: equal to accuracy if each text has one class."""
    return accuracy(split)


@metric(task="single_label", shown={})
def weighted_precision(split: EvaluatedSplit) -> float:
    """Mean precision over supported classes, weighted by support."""
    return _weighted_mean(split, "precision")


@metric(task="single_label", shown={})
def weighted_recall(split: EvaluatedSplit) -> float:
    """Mean recall over supported classes, weighted by support."""
    return _weighted_mean(split, "recall")


@metric("weighted F1", task="single_label", shown={"results": 80})
def weighted_f1(split: EvaluatedSplit) -> float:
    """Mean F1 over supported classes, weighted by support."""
    return _weighted_mean(split, "f1")


@metric("MCC", task="single_label", shown={"results": 85, "leaderboard": 75})
def mcc(split: EvaluatedSplit) -> float:
    """Matthews correlation coefficient of C classes; 0 if the truth or the predictions are constant.

    Reference:
        R_K of Gorodkin 2004, eq. 8, as covariances of one-hot truth and prediction.
    """
    # Squares of large counts exceed int64: float64 from here on.
    truth = split.counts.support.astype(np.float64)
    predicted = split.counts.predicted.astype(np.float64)
    total = truth.sum()
    truth_variance = total**2 - truth @ truth
    predicted_variance = total**2 - predicted @ predicted
    if truth_variance == 0 or predicted_variance == 0:
        return 0.0
    covariance = total * split.counts.true_positives.sum() - truth @ predicted
    return covariance / np.sqrt(truth_variance) / np.sqrt(predicted_variance)


@metric(task="single_label", shown={"results": 90, "leaderboard": 80})
def worst_recall(split: EvaluatedSplit) -> float:
    """Lowest recall of a supported class."""
    return split.by_class["recall"][split.supported].min()


@metric(task="single_label", shown={})
def supported_classes(split: EvaluatedSplit) -> float:
    """Number of supported classes."""
    return split.supported.sum()


@metric(task="single_label", shown={})
def classes(split: EvaluatedSplit) -> float:
    """Number of classes, C."""
    return len(split.train_counts)


@metric(task="single_label", shown={})
def majority_accuracy(split: EvaluatedSplit) -> float:
    """Accuracy of a baseline that always predicts the largest training class."""
    return split.counts.support[_majority(split)] / split.counts.support.sum()


@metric("majority macro F1", task="single_label", shown={})
def majority_macro_f1(split: EvaluatedSplit) -> float:
    """Macro F1 of a baseline that always predicts the largest training class."""
    found, total = split.counts.support[_majority(split)], split.counts.support.sum()
    return (2 * found / (found + total) if found else 0.0) / split.supported.sum()


def _majority(split: EvaluatedSplit) -> int:
    return int(np.argmax(split.train_counts))


def _weighted_mean(split: EvaluatedSplit, measure: str) -> float:
    support = split.counts.support[split.supported]
    return (split.by_class[measure][split.supported] * (support / support.sum())).sum()
