"""Metrics of both tasks: macro averages over classes, averages over buckets, and the loss.

A class is supported if the evaluated split holds at least one example of it. Rare classes are often absent from a
split. Their recall is unknown there, so that every mean leaves them out, except `macro_f1_all`.
"""

from functools import partial

import numpy as np

from counterpoise.metrics.registry import CountAverage, Task, View, metric
from counterpoise.metrics.split import EvaluatedSplit

BUCKETS = ("head", "medium", "tail")
TITLES = {"recall": "recall", "precision": "precision", "f1": "F1", "ap": "average precision"}
# Views show recall of classes and F1 of labels, whose thresholds trade precision for recall. Positions of the head.
BUCKET_METRICS: tuple[tuple[Task, str, dict[View, float]], ...] = (
    ("single_label", "recall", {"results": 100, "leaderboard": 100, "headline": 100, "comparison": 50}),
    ("single_label", "f1", {"comparison": 60}),
    ("multi_label", "recall", {"leaderboard": 100, "comparison": 50}),
    ("multi_label", "precision", {}),
    ("multi_label", "f1", {"results": 100, "leaderboard": 90, "headline": 100, "comparison": 60}),
    ("multi_label", "ap", {}),
)
RESAMPLING = {"recall": CountAverage("recall", "macro"), "f1": CountAverage("f1", "macro")}


@metric("macro precision", shown={"results": 70})
def macro_precision(split: EvaluatedSplit) -> float:
    """Mean precision over supported classes.

    scikit-learn's `average="macro"` also averages over classes that are absent from the split but predicted, so that
    the denominator depends on the model. Its `labels=` argument with the supported classes gives this number.
    """
    return class_mean(split.by_class["precision"][split.supported])


@metric(
    "macro F1", shown={"results": 60, "leaderboard": 10, "headline": 10, "comparison": 10}, resampling=RESAMPLING["f1"]
)
def macro_f1(split: EvaluatedSplit) -> float:
    """Mean F1 over supported classes."""
    return class_mean(split.by_class["f1"][split.supported])


@metric("macro F1 of all classes", shown={})
def macro_f1_all(split: EvaluatedSplit) -> float:
    """Sum of F1 over supported classes divided by C: absent classes count as 0."""
    supported = split.by_class["f1"][split.supported]
    return supported.sum() / len(split.train_counts) if len(supported) else np.nan


@metric("unweighted loss", higher_is_better=False, shown={"results": 900, "leaderboard": 900})
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


for _bucket_number, _bucket in enumerate(BUCKETS):
    for _task, _measure, _shown in BUCKET_METRICS:
        metric(
            f"{_bucket} {TITLES[_measure]}",
            name=f"{_bucket}_{_measure}",
            task=_task,
            needs="logits" if _measure == "ap" else "counts",
            bucket=_bucket,
            resampling=RESAMPLING.get(_measure),
            shown={view: position + _bucket_number for view, position in _shown.items()},
        )(partial(bucket_mean, bucket=_bucket, measure=_measure))
