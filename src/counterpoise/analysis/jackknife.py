"""Leave-one-out jackknife over test texts: how much each text contributes to the variance of a metric."""

import numpy as np
from scipy import sparse

from counterpoise.analysis.group_decisions import CountMetric, GroupDecisions, class_measure


def deviations(decisions: GroupDecisions, metric: CountMetric) -> np.ndarray:
    """Compute the jackknife deviations of a metric for K runs on N texts.

    With theta(t) the metric without text t, the deviation of text t is sqrt((N - 1) / N) (mean_t theta(t) - theta(t)).
    The product of two runs' deviations summed over texts is the jackknife covariance of their metrics over samples of
    texts. A class whose only test text is left out is excluded from the macro average.

    Args:
        decisions: Groups with K runs in total.
        metric: The metric.

    Returns:
        Float64 [K, N]. NaN if the metric is undefined without one of the texts.

    References:
        Efron and Tibshirani (1993), chapter 11.
    """
    values = _leave_one_out(decisions, metric)
    texts = values.shape[1]
    return np.sqrt((texts - 1) / texts) * (values.mean(axis=1, keepdims=True) - values)


def _leave_one_out(decisions: GroupDecisions, metric: CountMetric) -> np.ndarray:
    """Return the metric of each run without each text, [K, N]."""
    true_positives, predicted, support = decisions.counts
    runs = [run for group in decisions.decided for run in group]
    hits = [run.multiply(decisions.truth).tocsr() for run in runs]
    if metric.classes is None:
        per_text = [np.array([_row_sums(matrix) for matrix in matrices]) for matrices in (hits, runs)]
        remaining = [counts.sum(axis=-1, keepdims=True) for counts in (true_positives, predicted, support)]
        without = zip(remaining, (*per_text, _row_sums(decisions.truth)), strict=True)
        return class_measure(metric.measure, *(total - each for total, each in without))

    members = metric.classes & (support > 0)
    old = class_measure(metric.measure, true_positives, predicted, support)
    # Change of each class's value when a true positive, a false negative or a false positive is left out. The value of
    # a class that loses its only text becomes 0, and the number of classes decreases by one.
    last = support == 1
    kinds = [(1, 1, 1), (0, 0, 1), (0, 1, 0)]
    changes = []
    for hit, decided, true in kinds:
        new = class_measure(
            metric.measure, np.maximum(true_positives - hit, 0), np.maximum(predicted - decided, 0), support - true
        )
        changes.append(np.where(members, np.where(last & bool(true), 0, new) - old, 0))
    classes = members.sum() - _row_sums(decisions.truth.multiply(members & last))
    with np.errstate(invalid="ignore"):
        return np.stack(
            [
                (
                    old[k, members].sum()
                    + hits[k] @ changes[0][k]
                    + (decisions.truth @ changes[1][k] - hits[k] @ changes[1][k])
                    + (runs[k] @ changes[2][k] - hits[k] @ changes[2][k])
                )
                / np.where(classes > 0, classes, np.nan)
                for k in range(len(runs))
            ]
        )


def _row_sums(matrix: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(matrix.sum(axis=1), float).ravel()
