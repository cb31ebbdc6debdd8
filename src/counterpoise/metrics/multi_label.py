"""Metrics of multi-label classification: of the decisions and of the ranking. See also `metrics/averages.py`.

Undefined values are left out of means:

- A label is supported if the split holds a positive of it. Labels without support count in no mean over labels. If
  they are predicted all the same, they lower the micro metrics.
- A text without labels counts in no mean over texts: sample metrics, recall@k, precision@k, nDCG@k and LRAP. It counts
  in the micro metrics, and `subset_accuracy` counts it as correct if no label is predicted.
- A supported label that is never predicted has precision 0, and so has a text with labels and no predicted label.
"""

from functools import partial

import numpy as np
import pandas as pd
from scipy import sparse

from counterpoise.metrics.averages import class_mean
from counterpoise.metrics.class_counts import ClassCounts, precision_recall_f1
from counterpoise.metrics.ranking import K, average_precision, mean_of_known
from counterpoise.metrics.registry import CountAverage, metric
from counterpoise.metrics.split import EvaluatedSplit


def per_label(
    decided: np.ndarray, logits: np.ndarray, targets: sparse.csr_matrix, train_counts: np.ndarray
) -> pd.DataFrame:
    """Return one row per label: `train_count, test_count, precision, recall, f1, average_precision`.

    Args:
        decided: Predicted labels, bool [N, C].
        logits: Float [N, C]; any monotone score does.
        targets: Bool csr [N, C] without explicit zeros.
        train_counts: Training positives of each label, int [C].

    Raises:
        ValueError: The shapes do not match.
    """
    decided, logits, train = np.asarray(decided, bool), np.asarray(logits), np.asarray(train_counts, np.int64)
    if not decided.shape == logits.shape == targets.shape or train.shape != targets.shape[1:]:
        raise ValueError(
            "expected decided, logits and targets [N, C] and train_counts [C], "
            f"got {decided.shape}, {logits.shape}, {targets.shape}, {train.shape}"
        )
    counted = count_labels(decided, targets)
    precision, recall, f1 = precision_recall_f1(*counted)
    return pd.DataFrame(
        {
            "train_count": train,
            "test_count": counted.support,
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "average_precision": average_precision(logits, targets),
        }
    )


def count_labels(decided: np.ndarray, targets: sparse.csr_matrix) -> ClassCounts:
    """Return the class counts of decisions, bool [N, C], and targets, bool csr [N, C]."""
    correct, labels = decided[_rows(targets), targets.indices], targets.shape[1]
    found = targets.indices[correct]
    true_positives, support = (np.bincount(each, minlength=labels) for each in (found, targets.indices))
    return ClassCounts(true_positives, support, decided.sum(axis=0))


@metric("micro precision", task="multi_label", shown={"results": 31})
def micro_precision(split: EvaluatedSplit) -> float:
    """Precision of all N * C decisions together."""
    return _micro(split)[0]


@metric(
    task="multi_label",
    shown={"results": 32, "leaderboard": 40, "comparison": 40},
    resampling=CountAverage("recall", "micro"),
)
def micro_recall(split: EvaluatedSplit) -> float:
    """Recall of all N * C decisions together."""
    return _micro(split)[1]


@metric(
    task="multi_label",
    shown={"results": 30, "leaderboard": 20, "headline": 20, "comparison": 30},
    resampling=CountAverage("f1", "micro"),
)
def micro_f1(split: EvaluatedSplit) -> float:
    """F1 of all N * C decisions together."""
    return _micro(split)[2]


@metric(
    task="multi_label",
    shown={"results": 71, "leaderboard": 30, "comparison": 20},
    resampling=CountAverage("recall", "macro"),
)
def macro_recall(split: EvaluatedSplit) -> float:
    """Mean recall over supported labels."""
    return class_mean(split.by_class["recall"][split.supported])


@metric(task="multi_label", needs="logits", shown={})
def sample_precision(split: EvaluatedSplit) -> float:
    """Precision of the labels of a text, mean over texts with labels."""
    return _sample(split)[0]


@metric(task="multi_label", needs="logits", shown={})
def sample_recall(split: EvaluatedSplit) -> float:
    """Recall of the labels of a text, mean over texts with labels."""
    return _sample(split)[1]


@metric(task="multi_label", needs="logits", shown={})
def sample_f1(split: EvaluatedSplit) -> float:
    """F1 of the labels of a text, mean over texts with labels."""
    return _sample(split)[2]


@metric(
    "mAP", name="map", task="multi_label", needs="logits", shown={"results": 120, "leaderboard": 50, "headline": 30}
)
def mean_average_precision(split: EvaluatedSplit) -> float:
    """Mean average precision over supported labels."""
    return mean_of_known(split.average_precision[split.supported])


@metric(task="multi_label", needs="logits", shown={})
def subset_accuracy(split: EvaluatedSplit) -> float:
    """Fraction of texts whose predicted labels are exactly the true ones."""
    true_positives, support, predicted = split.counts_by_text
    return ((true_positives == support) & (true_positives == predicted)).mean()


@metric("LRAP", task="multi_label", needs="logits", shown={"results": 150})
def lrap(split: EvaluatedSplit) -> float:
    """Label ranking average precision, mean over texts with labels."""
    return split.ranking["lrap"]


@metric(task="multi_label", shown={})
def supported_labels(split: EvaluatedSplit) -> float:
    """Number of supported labels."""
    return split.supported.sum()


@metric(task="multi_label", shown={})
def labels(split: EvaluatedSplit) -> float:
    """Number of labels, C."""
    return len(split.train_counts)


@metric("constant micro F1", task="multi_label", needs="logits", shown={})
def constant_micro_f1(split: EvaluatedSplit) -> float:
    """Micro F1 of a baseline that predicts the most frequent training labels, as many as a text has on average."""
    return _constant(split)[0]


@metric("constant macro F1", task="multi_label", needs="logits", shown={})
def constant_macro_f1(split: EvaluatedSplit) -> float:
    """Macro F1 of the baseline of `constant_micro_f1`."""
    return _constant(split)[1]


@metric(task="multi_label", needs="logits", shown={})
def labels_per_text(split: EvaluatedSplit) -> float:
    """True labels per text, mean over all texts."""
    return split.counts_by_text.support.mean()


@metric("predicted labels per text", task="multi_label", needs="logits", shown={"results": 160})
def predicted_per_text(split: EvaluatedSplit) -> float:
    """Predicted labels per text, mean over all texts."""
    return split.counts_by_text.predicted.mean()


def _ranking_score(split: EvaluatedSplit, name: str) -> float:
    return split.ranking[name]


# The results table shows recall and nDCG at 5.
for _name, _title, _results in (("recall", "recall", 130), ("precision", "precision", None), ("ndcg", "nDCG", 140)):
    for _k in K:
        metric(
            f"{_title} at {_k}",
            name=f"{_name}_at_{_k}",
            task="multi_label",
            needs="logits",
            min_classes=_k,
            shown={"results": _results} if _results and _k == 5 else {},
        )(partial(_ranking_score, name=f"{_name}_at_{_k}"))


def _constant(split: EvaluatedSplit) -> tuple[float, float]:
    """Return micro and macro F1 of predicting the same labels for each text."""
    support, texts = split.counts.support, split.num_examples
    number = max(1, round(support.sum() / texts))
    chosen = support[np.argsort(-split.train_counts, kind="stable")[:number]]
    micro = 2 * chosen.sum() / (support.sum() + number * texts)
    return micro, (2 * chosen / (chosen + texts)).sum() / split.supported.sum() if support.any() else np.nan


def _micro(split: EvaluatedSplit) -> tuple[float, float, float]:
    """Return precision, recall and F1 of all decisions together."""
    precision, recall, f1 = precision_recall_f1(*(np.array([each.sum()]) for each in split.counts))
    return precision[0], recall[0], f1[0]


def _sample(split: EvaluatedSplit) -> tuple[float, float, float]:
    """Return precision, recall and F1, means over texts with labels."""
    counts = split.counts_by_text
    labelled = counts.support > 0
    precision, recall, f1 = precision_recall_f1(*(each[labelled] for each in counts))
    return mean_of_known(precision), mean_of_known(recall), mean_of_known(f1)


def _rows(targets: sparse.csr_matrix) -> np.ndarray:
    """Return the row of each positive, int64 [nnz]."""
    return np.repeat(np.arange(targets.shape[0]), np.diff(targets.indptr))
