"""True positives, support and predictions of each class, and the precision, recall and F1 that follow from them."""

from typing import NamedTuple

import numpy as np


class ClassCounts(NamedTuple):
    """Number of evaluated examples of each class, int64 [C] each.

    Args:
        true_positives: Examples of the class that are predicted as such.
        support: Examples of the class.
        predicted: Examples that are predicted as the class.
    """

    true_positives: np.ndarray
    support: np.ndarray
    predicted: np.ndarray

    @classmethod
    def of(cls, truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> "ClassCounts":
        """Count class numbers, int [N] each."""
        correct = truth[truth == predicted]
        return cls(*(np.bincount(each, minlength=num_classes) for each in (correct, truth, predicted)))


def precision_recall_f1(
    true_positives: np.ndarray, support: np.ndarray, predicted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute precision, recall and F1 of each class.

    Args:
        true_positives: As in `ClassCounts`, int [C].
        support: As in `ClassCounts`, int [C].
        predicted: As in `ClassCounts`, int [C].

    Returns:
        Precision, recall and F1, float64 [C] each. A class with support that is never predicted has precision 0. A
        class without support has recall and F1 NaN; its precision is 0 if it is predicted and NaN if it is not.
    """
    precision = _ratio(true_positives, predicted, otherwise=np.where(support > 0, 0.0, np.nan))
    recall = _ratio(true_positives, support, otherwise=np.nan)
    f1 = np.where(support > 0, _ratio(2 * true_positives, support + predicted, otherwise=np.nan), np.nan)
    return precision, recall, f1


def _ratio(numerator: np.ndarray, denominator: np.ndarray, otherwise: float | np.ndarray) -> np.ndarray:
    """Return the ratio as float64 [C], and `otherwise` where the denominator is 0."""
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), otherwise)
