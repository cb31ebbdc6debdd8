"""Metrics of both tasks: macro averages over classes, averages over buckets, and the loss.

A class is supported if the evaluated split holds at least one example of it. Rare classes are often absent from a
split. Their recall is unknown there, so that every mean leaves them out, except `macro_f1_all`.
"""

from functools import partial

import numpy as np

from counterpoise.metrics.registry import CountAverage, metric
from counterpoise.metrics.split import EvaluatedSplit

BUCKETS = ("head", "medium", "tail")
TITLES = {"recall": "recall", "precision": "precision", "f1": "F1", "ap": "average precision"}
RESAMPLING = {"recall": CountAverage("recall", "macro"), "f1": CountAverage("f1", "macro")}


@metric("macro precision", results=70, leaderboard=None, headline=None, comparison=None)
def macro_precision(split: EvaluatedSplit) -> float:
    """Mean precision over supported classes.

    scikit-learn's `average="macro"` also averages over classes that are absent from the split but predicted, so that
    the denominator depends on the model. Its `labels=` argument with the supported classes gives this number.
    """
    return class_mean(split.by_class["precision"][split.supported])


@metric("macro F1", results=60, leaderboard=10, headline=10, comparison=10, resampling=RESAMPLING["f1"])
def macro_f1(split: EvaluatedSplit) -> float:
    """Mean F1 over supported classes."""
    return class_mean(split.by_class["f1"][split.supported])


@metric("macro F1 of all classes", results=None, leaderboard=None, headline=None, comparison=None)
def macro_f1_all(split: EvaluatedSplit) -> float:
    """Sum of F1 over supported classes divided by C: absent classes count as 0."""
    supported = split.by_class["f1"][split.supported]
    return supported.sum() / len(split.train_counts) if len(supported) else np.nan


@metric("unweighted loss", higher_is_better=False, results=900, leaderboard=900, headline=None, comparison=None)
def loss(split: EvaluatedSplit) -> float | None:
    """Mean unweighted cross-entropy; multi-label: binary cross-entropy over all pairs of text and label."""
    return split.loss


def class_mean(values: np.ndarray) -> float:
    """Return the mean of float [K]; NaN if it is empty."""
    return values.mean() if len(values) else np.nan


def bucket_mean(split: EvaluatedSplit, bucket: str, measure: str) -> float:
    """Return the mean of a measure over the supported classes of a bucket.

    Args:
        split: The evaluated split.
        bucket: "head", "medium" or "tail".
        measure: "precision", "recall", "f1" or, multi-label, "ap".
    """
    values = split.average_precision if measure == "ap" else split.by_class[measure]
    return class_mean(values[split.supported & (split.buckets == bucket)])


def _register_bucket_averages() -> None:
    """Register recall and F1 of each bucket, and precision and average precision of multi-label data."""
    for number, bucket in enumerate(BUCKETS):
        for measure in ("recall", "precision", "f1", "ap"):
            # Views show recall for classes and F1 for labels, whose thresholds trade precision for recall.
            for task, shown in (("single_label", "recall"), ("multi_label", "f1")):
                if task == "single_label" and measure in ("precision", "ap"):
                    continue
                place = 100.0 + number if measure == shown else None
                on_leaderboard = measure == "recall" or (task, measure) == ("multi_label", "f1")
                metric(
                    f"{bucket} {TITLES[measure]}",
                    name=f"{bucket}_{measure}",
                    task=task,  # type: ignore[arg-type]
                    needs="logits" if measure == "ap" else "counts",
                    bucket=bucket,
                    resampling=RESAMPLING.get(measure),
                    results=place,
                    headline=place,
                    leaderboard={"f1": 90.0, "recall": 100.0}[measure] + number if on_leaderboard else None,
                    comparison={"recall": 50.0, "f1": 60.0}[measure] + number if measure in RESAMPLING else None,
                )(partial(bucket_mean, bucket=bucket, measure=measure))


_register_bucket_averages()
