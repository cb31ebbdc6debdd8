"""Tables of a comparison: pairwise tests, differences to the reference, and recall by class and by bucket."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from counterpoise.analysis.bootstrap import bootstrap_scores, confidence_interval, recall_intervals
from counterpoise.analysis.group_decisions import CountMetric, GroupDecisions, observed_scores
from counterpoise.analysis.permutation_test import permutation_test, refine_p_values
from counterpoise.analysis.significance import holm
from counterpoise.metrics.class_counts import precision_recall_f1

BUCKETS = ("head", "medium", "tail")
MIN_TEST_TEXTS = 5
"""Classes with fewer test texts get no interval for their recall: too few texts to estimate its variance."""
_DIFFERENCE = ("difference", "low", "high", "p")


@dataclass(frozen=True)
class GroupScores:
    """Scores and p-values of G groups and M metrics.

    Args:
        names: Names of the groups, best first.
        metrics: Names of the metrics.
        scores: For each group, the scores of its seeds, [S, M].
        means: Means over seeds, [G, M].
        replicates: Bootstrap replicates of the means, [G, M, R].
        p: P-values of the differences between groups, [G, G, M].
    """

    names: list[str]
    metrics: list[str]
    scores: list[np.ndarray]
    means: np.ndarray
    replicates: np.ndarray
    p: np.ndarray

    def difference(self, a: int, b: int, metric: str) -> dict[str, float]:
        """Return the difference of groups a and b, its confidence interval and its p-value."""
        m = self.metrics.index(metric)
        low, high = confidence_interval(self.replicates[a, m] - self.replicates[b, m])
        difference = self.means[a, m] - self.means[b, m]
        return {"difference": difference, "low": float(low), "high": float(high), "p": self.p[a, b, m]}

    def intervals(self, group: int) -> dict[str, tuple[float, float]]:
        """Return the confidence intervals of a group's means, by metric."""
        low, high = confidence_interval(self.replicates[group])
        return dict(zip(self.metrics, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def measure(
    names: list[str],
    decisions: GroupDecisions,
    metrics: Mapping[str, CountMetric],
    metric: str,
    reference: str,
    replicates: int,
    permutations: int,
    seed: int,
) -> GroupScores:
    """Compute scores, bootstrap replicates and p-values of groups.

    Args:
        names: Names of the groups, in the order of `decisions`.
        decisions: The groups.
        metrics: Metrics to compute, by name.
        metric: Metric of the pairwise tests; its p-values are refined for the number of pairs.
        reference: Name of the reference group.
        replicates: Bootstrap replicates.
        permutations: Permutations of the permutation test.
        seed: Seed of both.
    """
    compared, tested = list(metrics.values()), list(metrics).index(metric)
    p = _p_values(decisions, compared, tested, names.index(reference), permutations, seed)
    scores = observed_scores(decisions, compared)
    means = np.array([values.mean(axis=0) for values in scores])
    return GroupScores(names, list(metrics), scores, means, bootstrap_scores(decisions, compared, replicates, seed), p)


def pairs(measured: GroupScores, metric: str, reference: str) -> pd.DataFrame:
    """Return every pair of groups once. Pairs with the reference and pairs without it are adjusted as two families."""
    rows = [
        {"a": measured.names[a], "b": measured.names[b], "metric": metric, **measured.difference(a, b, metric)}
        for a, b in combinations(range(len(measured.names)), 2)
    ]
    table = pd.DataFrame(rows, columns=["a", "b", "metric", *_DIFFERENCE])
    with_reference = (table["a"] == reference) | (table["b"] == reference)
    adjusted = table.groupby(with_reference)["p"].transform(lambda p: holm(p.to_numpy(float)))
    return table.assign(p_adjusted=adjusted.astype(float))


def effects(measured: GroupScores, reference: str) -> pd.DataFrame:
    """Return the difference of each group to the reference, for every metric. Each metric is one family."""
    base = measured.names.index(reference)
    rows = [
        {"group": name, "metric": metric, **measured.difference(number, base, metric)}
        for number, name in enumerate(measured.names)
        for metric in measured.metrics
        if number != base
    ]
    table = pd.DataFrame(rows, columns=["group", "metric", *_DIFFERENCE])
    adjusted = table.groupby("metric")["p"].transform(lambda p: holm(p.to_numpy(float)))
    return table.assign(p_adjusted=adjusted.astype(float))


def classes(
    measured: GroupScores,
    decisions: GroupDecisions,
    labels: list[str],
    train_counts: np.ndarray,
    reference: str,
    replicates: int,
    seed: int,
) -> pd.DataFrame:
    """Return recall and F1 of each group and class, with the difference of recall to the reference."""
    base = measured.names.index(reference)
    true_positives, predicted, support = (
        counts[..., 0] for counts in decisions.counts(np.ones((decisions.truth.shape[0], 1)))
    )
    low, high = recall_intervals(decisions, base, replicates, seed)
    low[:, support < MIN_TEST_TEXTS] = high[:, support < MIN_TEST_TEXTS] = np.nan
    low[base] = high[base] = np.nan
    scores = [precision_recall_f1(true_positives[runs], support, predicted[runs])[1:] for runs in decisions.runs]
    recalls, f1s = (np.array([score[kind].mean(axis=0) for score in scores]) for kind in (0, 1))
    shared = {"class": labels, "train_count": train_counts, "test_count": support.astype(np.int64)}
    differences = recalls - recalls[base]
    differences[base] = np.nan
    columns = ("recall", "f1", "recall_difference", "low", "high")
    parts = [
        pd.DataFrame(shared | dict(zip(columns, values, strict=True)))
        for values in zip(recalls, f1s, differences, low, high, strict=True)
    ]
    return pd.concat(parts, keys=measured.names, names=["group"]).reset_index("group").reset_index(drop=True)


def bucket_recalls(measured: GroupScores, supported_buckets: np.ndarray, reference: str) -> pd.DataFrame:
    """Return recall and F1 of each group and bucket.

    Args:
        measured: Scores of the groups.
        supported_buckets: Bucket of each class that has test texts.
        reference: Name of the reference group.
    """
    base = measured.names.index(reference)
    rows = []
    for number, name in enumerate(measured.names):
        for bucket in (each for each in BUCKETS if (supported_buckets == each).any()):
            recall, f1 = (
                measured.means[number, measured.metrics.index(f"{bucket}_{kind}")] for kind in ("recall", "f1")
            )
            size = int((supported_buckets == bucket).sum())
            row = {"group": name, "bucket": bucket, "classes": size, "recall": recall, "f1": f1}
            change = measured.difference(number, base, f"{bucket}_recall") if number != base else {}
            rows.append(row | {key: change.get(key, np.nan) for key in ("difference", "low", "high")})
    return pd.DataFrame(rows)


def _p_values(
    decisions: GroupDecisions, metrics: list[CountMetric], metric: int, reference: int, permutations: int, seed: int
) -> np.ndarray:
    """Return p-values of the differences between groups, [G, G, M], refined for `metric`."""
    pairs, values = permutation_test(decisions, metrics, permutations, seed)
    # Pairs without the reference are adjusted together; their number grows with the square of the groups.
    others = [number for number, pair in enumerate(pairs) if reference not in pair]
    other_pairs, known = [pairs[number] for number in others], values[others, metric]
    values[others, metric] = refine_p_values(decisions, metrics[metric], other_pairs, known, permutations, seed)
    p = np.ones((len(decisions.runs), len(decisions.runs), len(metrics)))
    for (a, b), row in zip(pairs, values, strict=True):
        p[a, b] = p[b, a] = row
    return p
