"""Tables of a comparison: pairwise tests, differences to the reference, and recall by class and by bucket."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd

from counterpoise.analysis.class_recalls import recall_intervals
from counterpoise.analysis.group_decisions import CountMetric, GroupDecisions, differing_texts, observed_scores
from counterpoise.analysis.inference import Estimate, MetricEstimates
from counterpoise.analysis.jackknife import deviations
from counterpoise.analysis.significance import ALPHA, adjusted
from counterpoise.metrics.class_counts import precision_recall_f1

BUCKETS = ("head", "medium", "tail")


@dataclass(frozen=True)
class GroupScores:
    """Scores of G groups on M metrics, with their variances.

    Args:
        names: Names of the groups, best first.
        decisions: The decisions of the groups.
        metrics: The metrics by name.
        scores: For each group, the scores of its seeds, [S, M].
        estimates: For each metric, its estimates.
    """

    names: list[str]
    decisions: GroupDecisions
    metrics: Mapping[str, CountMetric]
    scores: list[np.ndarray]
    estimates: dict[str, MetricEstimates]

    def difference(self, a: int, b: int, metric: str) -> Estimate:
        """Return the difference of groups a and b."""
        differing = differing_texts(self.decisions, self.metrics[metric], a, b)
        return replace(self.estimates[metric].difference(a, b), differing=differing)

    def intervals(self, group: int) -> dict[str, tuple[float, float]]:
        """Return the confidence intervals of a group's means, by metric. They end at 0 and 1."""
        found = {metric: self.estimates[metric].mean(group).interval() for metric in self.metrics}
        return {metric: (max(low, 0.0), min(high, 1.0)) for metric, (low, high) in found.items()}


def measure(
    names: list[str],
    decisions: GroupDecisions,
    metrics: Mapping[str, CountMetric],
    paired: frozenset[tuple[int, int]] = frozenset(),
) -> GroupScores:
    """Compute the scores of groups and their variances.

    Args:
        names: Names of the groups, in the order of `decisions`.
        decisions: The groups.
        metrics: Metrics to compute, by name.
        paired: Pairs of groups whose runs belong together one by one.
    """
    scores = observed_scores(decisions, list(metrics.values()))
    values = np.concatenate(scores)
    estimates = {
        name: MetricEstimates(values[:, number], deviations(decisions, metric), decisions.runs, paired)
        for number, (name, metric) in enumerate(metrics.items())
    }
    return GroupScores(names, decisions, metrics, scores, estimates)


def pairs(measured: GroupScores, metric: str, reference: str | None) -> pd.DataFrame:
    """Return every pair of groups once.

    Args:
        measured: Scores of the groups.
        metric: The compared metric.
        reference: Name of the reference group. Pairs with it and pairs without it are adjusted as two families. None:
            all pairs are one family.
    """
    numbers = list(combinations(range(len(measured.names)), 2))
    keys = [{"a": measured.names[a], "b": measured.names[b], "metric": metric} for a, b in numbers]
    estimates = [measured.difference(a, b, metric) for a, b in numbers]
    return _table(keys, estimates, [reference in (key["a"], key["b"]) for key in keys], ["a", "b", "metric"])


def effects(measured: GroupScores, metric: str, reference: str, chosen_by_score: bool = False) -> pd.DataFrame:
    """Return the difference of each group to the reference, for every metric.

    Args:
        measured: Scores of the groups.
        metric: The metric that ranks the groups. Differences in it are one family, those in all other metrics another.
        reference: Name of the reference group.
        chosen_by_score: Whether the reference is the best group. Choosing it compared all pairs, so the differences are
            adjusted for that number.
    """
    base = measured.names.index(reference)
    numbers = [(number, each) for number in range(len(measured.names)) for each in measured.metrics if number != base]
    keys = [{"group": measured.names[number], "metric": each} for number, each in numbers]
    estimates = [measured.difference(number, base, each) for number, each in numbers]
    size = comb(len(measured.names), 2) if chosen_by_score else 0
    return _table(keys, estimates, [each == metric for _, each in numbers], ["group", "metric"], size)


def detectable(
    measured: GroupScores, metric: str, reference: str, seeds: Iterable[int], chosen_by_score: bool = False
) -> dict[int, float]:
    """Return the smallest difference to the reference that is found with 80 % power, by number of seeds per group.

    Args:
        measured: Scores of the groups.
        metric: The compared metric.
        reference: Name of the reference group.
        seeds: Numbers of seeds per group.
        chosen_by_score: Whether the reference is the best group; see `effects`.

    Returns:
        The median over the groups with several seeds; NaN if no group has several seeds.
    """
    groups = len(measured.names)
    comparisons = comb(groups, 2) if chosen_by_score else groups - 1
    base, known = measured.names.index(reference), measured.estimates[metric]
    several = [number for number in range(len(measured.names)) if known.sizes[number] > 1]
    others = [number for number in several if number != base and base in several]
    result = {}
    for size in seeds:
        found = [
            known.difference(number, base).with_seeds(
                known.seed_variance(number, size) + known.seed_variance(base, size), len(several) * (size - 1)
            )
            for number in others
        ]
        limits = [each.detectable(ALPHA / comparisons) for each in found]
        result[size] = float(np.median(limits)) if limits else np.nan
    return result


def _table(
    keys: list[dict[str, str]],
    estimates: list[Estimate],
    families: list[bool],
    columns: list[str],
    comparisons_per_metric: int = 0,
) -> pd.DataFrame:
    """Return the rows `keys` with their differences, adjusted within each family."""
    parts = []
    for family in (True, False):
        members = [number for number, each in enumerate(families) if each == family]
        metrics = len({keys[number]["metric"] for number in members})
        rows = adjusted([estimates[number] for number in members], comparisons_per_metric * metrics)
        rows[["low", "high"]] = rows[["low", "high"]].clip(-1, 1)  # metrics lie between 0 and 1
        parts.append(rows.set_index(pd.Index(members, dtype=int)))
    return pd.DataFrame(keys, columns=columns).join(pd.concat(parts).sort_index())


def classes(
    measured: GroupScores,
    decisions: GroupDecisions,
    labels: list[str],
    train_counts: np.ndarray,
    reference: str,
) -> pd.DataFrame:
    """Return recall and F1 of each group and class, with the difference of recall to the reference."""
    base = measured.names.index(reference)
    true_positives, predicted, support = decisions.counts
    low, high = recall_intervals(decisions, base, next(iter(measured.estimates.values())).paired)
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


def bucket_recalls(measured: GroupScores, effects: pd.DataFrame, supported_buckets: np.ndarray) -> pd.DataFrame:
    """Return recall and F1 of each group and bucket, with the difference of recall to the reference.

    Args:
        measured: Scores of the groups.
        effects: Differences to the reference, from `effects`.
        supported_buckets: Bucket of each class that has test texts.
    """
    rows = []
    for number, name in enumerate(measured.names):
        for bucket in (each for each in BUCKETS if (supported_buckets == each).any()):
            means = {kind: measured.estimates[f"{bucket}_{kind}"].means[number] for kind in ("recall", "f1")}
            size = int((supported_buckets == bucket).sum())
            rows.append({"group": name, "bucket": bucket, "metric": f"{bucket}_recall", "classes": size} | means)
    table = pd.DataFrame(rows, columns=["group", "bucket", "metric", "classes", "recall", "f1"])
    changes = effects[["group", "metric", "difference", "low", "high"]]
    return table.merge(changes, "left", ["group", "metric"]).drop(columns="metric")
