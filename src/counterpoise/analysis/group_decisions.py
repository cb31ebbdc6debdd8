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
    """Return the metrics of the comparison view that can be resampled, by name and in the order of display.

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


def score(
    metrics: Sequence[CountMetric], true_positives: np.ndarray, predicted: np.ndarray, support: np.ndarray
) -> np.ndarray:
    """Compute M metrics for R replicates of class counts.

    Args:
        metrics: The M metrics.
        true_positives: Float [..., C, R].
        predicted: Float [..., C, R].
        support: Float [C, R] or [C, 1].

    Returns:
        Float [..., M, R]. A class without support in a replicate is excluded from macro averages; an average over no
        class is NaN.
    """
    result = np.empty((*true_positives.shape[:-2], len(metrics), true_positives.shape[-1]), true_positives.dtype)
    present = (support > 0).astype(true_positives.dtype)
    for measure in ("f1", "recall"):
        macro = [m for m, metric in enumerate(metrics) if metric.measure == measure and metric.classes is not None]
        micro = [m for m, metric in enumerate(metrics) if metric.measure == measure and metric.classes is None]
        if macro:
            members = np.stack([np.asarray(metrics[m].classes) for m in macro]).astype(true_positives.dtype)
            with np.errstate(invalid="ignore"):
                result[..., macro, :] = (members @ _class_measure(measure, true_positives, predicted, support)) / (
                    members @ present
                )
        if micro:
            totals = (counts.sum(axis=-2, keepdims=True) for counts in (true_positives, predicted, support))
            result[..., micro, :] = _class_measure(measure, *totals)
    return result


def _class_measure(measure: str, true_positives: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Return F1 or recall per class; 0 without support."""
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

    def counts(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return weighted class counts.

        Args:
            weights: Weights of the texts in R replicates, float [N, R].

        Returns:
            True positives [K, C, R], predicted [K, C, R] and support [C, R].
        """
        true_positives, predicted, support = (matrix @ weights for matrix in self._by_class)
        shape = (-1, self.truth.shape[1], weights.shape[1])
        return true_positives.reshape(shape), predicted.reshape(shape), support

    def select_texts(self, texts: np.ndarray) -> "GroupDecisions":
        """Return the decisions on the texts with these row numbers."""
        return GroupDecisions(self.truth[texts], [[run[texts] for run in group] for group in self.decided])

    def select_classes(self, classes: slice) -> "GroupDecisions":
        """Return the decisions on a range of classes."""
        return GroupDecisions(self.truth[:, classes], [[run[:, classes] for run in group] for group in self.decided])

    def select_groups(self, a: int, b: int) -> "GroupDecisions":
        """Return the decisions of groups a and b."""
        return GroupDecisions(self.truth, [self.decided[a], self.decided[b]])

    @cached_property
    def _by_class(self) -> tuple[sparse.csr_matrix, ...]:
        """True positives and predicted, csr float32 [K * C, N], and support [C, N]: float32 is exact below 2^24."""
        runs = [run for group in self.decided for run in group]
        true_positives = sparse.vstack([run.multiply(self.truth).T for run in runs], "csr", np.float32)
        predicted = sparse.vstack([run.T for run in runs], "csr", np.float32)
        return true_positives, predicted, self.truth.T.tocsr().astype(np.float32)


def observed_scores(decisions: GroupDecisions, metrics: Sequence[CountMetric]) -> list[np.ndarray]:
    """Return the metrics of each group's runs on all texts, float64 [S, M] for a group of S seeds."""
    values = score(metrics, *decisions.counts(np.ones((decisions.truth.shape[0], 1))))[..., 0]
    return [values[runs] for runs in decisions.runs]
