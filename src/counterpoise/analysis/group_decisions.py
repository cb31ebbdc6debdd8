"""Decisions of groups of runs on the same test texts, and the metrics that follow from their class counts.

A group holds the runs of one setting with different seeds. All K runs decide on the same N texts with C classes or
labels. True labels and decisions are sparse csr matrices of bool [N, C], one-hot for single-label data. A metric is a
function of three counts per class: true positives, predicted and support (true).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from scipy import sparse

from counterpoise.metrics import registry
from counterpoise.metrics.buckets import Bounds, buckets


class CountMetric(NamedTuple):
    """A metric that is computed from class counts.

    Args:
        measure: The function of the counts.
        classes: Bool [C], the classes to average over (macro average). None sums the counts of all classes (micro
            average).
    """

    measure: Literal["f1", "recall"]
    classes: np.ndarray | None = None


def comparison_metrics(
    task: registry.Task, support: np.ndarray, train_counts: np.ndarray, bounds: Bounds
) -> dict[str, CountMetric]:
    """Return the metrics of the comparison view that are functions of class counts, by name, in display order.

    Args:
        task: "single_label" or "multi_label".
        support: Test texts of each class, int [C].
        train_counts: Training texts of each class, int [C].
        bounds: Bounds of the buckets.

    Returns:
        Macro averages cover classes with test texts only. Metrics of buckets without such classes are absent.
    """
    supported, bucket = np.asarray(support) > 0, buckets(train_counts, *bounds)
    result = {}
    for metric in registry.select(task, "comparison"):
        if metric.resampling is not None and metric.exists(support, train_counts, bounds):
            members = supported if metric.bucket is None else supported & (bucket == metric.bucket)
            average = members if metric.resampling.average == "macro" else None
            result[metric.name] = CountMetric(metric.resampling.measure, average)
    return result


def score(metric: CountMetric, true_positives: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Compute a metric from class counts.

    Args:
        metric: The metric.
        true_positives: Float [..., C].
        predicted: Float [..., C].
        support: Float [C].

    Returns:
        Float [...]. Classes without support are excluded from macro averages; an average over no class is NaN.
    """
    if metric.classes is None:
        totals = (counts.sum(axis=-1) for counts in (true_positives, predicted, support))
        return class_measure(metric.measure, *totals)
    members = metric.classes & (support > 0)
    if not members.any():
        return np.full(true_positives.shape[:-1], np.nan)
    return class_measure(metric.measure, true_positives, predicted, support)[..., members].mean(axis=-1)


def class_measure(measure: str, true_positives: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Return F1 or recall of each class; 0 without support."""
    if measure == "f1":
        return 2 * true_positives / np.maximum(support + predicted, 1)
    return true_positives / np.maximum(support, 1)


@dataclass(frozen=True)
class GroupDecisions:
    """True labels of N texts and the decisions of every run of every group.

    Args:
        truth: True labels, csr bool [N, C].
        decided: For each group, the decisions of its runs, csr bool [N, C] each.
    """

    truth: sparse.csr_matrix
    decided: Sequence[Sequence[sparse.csr_matrix]]

    @cached_property
    def runs(self) -> list[np.ndarray]:
        """Indices of each group's runs among all K runs."""
        ends = np.cumsum([0, *map(len, self.decided)])
        return [np.arange(start, end) for start, end in pairwise(ends)]

    @cached_property
    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """True positives [K, C], predicted [K, C] and support [C] of all texts, float64."""
        runs = [run for group in self.decided for run in group]
        true_positives = np.array([_column_sums(run.multiply(self.truth)) for run in runs])
        return true_positives, np.array([_column_sums(run) for run in runs]), _column_sums(self.truth)


def differing_texts(decisions: GroupDecisions, metric: CountMetric, a: int, b: int) -> int:
    """Return the number of texts on which groups a and b differ in the mean of the decisions that the metric counts."""
    members = slice(None) if metric.classes is None else np.flatnonzero(metric.classes)
    means = []
    for group in (decisions.decided[a], decisions.decided[b]):
        counted = [run.multiply(decisions.truth) if metric.measure == "recall" else run for run in group]
        means.append(sum(each.tocsr()[:, members].astype(float) for each in counted) / len(counted))
    return int((abs(means[0] - means[1]).max(axis=1).toarray() > 1e-9).sum())


def observed_scores(decisions: GroupDecisions, metrics: Sequence[CountMetric]) -> list[np.ndarray]:
    """Return the metrics of each group's runs on all texts, float64 [S, M] for a group of S runs."""
    values = np.stack([score(metric, *decisions.counts) for metric in metrics], axis=-1)
    return [values[runs] for runs in decisions.runs]


def _column_sums(matrix: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(matrix.sum(axis=0), float).ravel()
