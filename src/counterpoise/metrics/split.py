"""One evaluated split: what a metric function receives."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from scipy import sparse

from counterpoise.balance.counts import Targets
from counterpoise.metrics.buckets import DEFAULT_BOUNDS, Bounds, buckets
from counterpoise.metrics.class_counts import ClassCounts, precision_recall_f1
from counterpoise.metrics.ranking import average_precision, ranking_scores


@dataclass(frozen=True)
class EvaluatedSplit:
    """Class counts of one evaluated split of N texts and C classes and, where they are kept, its logits.

    Args:
        task: "single_label" or "multi_label".
        counts: True positives, support and predictions of each class.
        train_counts: Training examples of each class (multi-label: positives of each label), int64 [C].
        bounds: Bounds of head, medium and tail.
        logits: Float [N, C]; None if only counts are kept.
        targets: Class numbers, int [N], or labels, bool csr [N, C] without explicit zeros; None without logits.
        decided: Predicted class numbers, int [N], or labels, bool [N, C]; None without logits.
        loss: Mean unweighted loss; None if unknown.
    """

    task: Literal["single_label", "multi_label"]
    counts: ClassCounts
    train_counts: np.ndarray
    bounds: Bounds = DEFAULT_BOUNDS
    logits: np.ndarray | None = None
    targets: Targets | None = None
    decided: np.ndarray | None = None
    loss: float | None = None

    @property
    def multi_label(self) -> bool:
        """Whether a text may have any number of labels."""
        return self.task == "multi_label"

    @property
    def num_examples(self) -> int:
        """N; without logits, the number of single-label texts."""
        return int(self.counts.support.sum()) if self.logits is None else len(self.logits)

    @cached_property
    def truth(self) -> np.ndarray:
        """Whether each text has each class, bool [N, C]."""
        if isinstance(self.targets, np.ndarray):
            return self.targets[:, None] == np.arange(len(self.train_counts))
        assert self.targets is not None
        return np.asarray(self.targets.toarray(), bool)

    @cached_property
    def label_matrix(self) -> sparse.csr_matrix:
        """Targets as bool csr [N, C]. Multi-label only."""
        assert self.targets is not None
        assert not isinstance(self.targets, np.ndarray)
        return self.targets

    @cached_property
    def supported(self) -> np.ndarray:
        """Whether the split holds an example of each class, bool [C]."""
        return self.counts.support > 0

    @cached_property
    def buckets(self) -> np.ndarray:
        """Bucket of each class, "head", "medium" or "tail", str [C]."""
        return buckets(self.train_counts, *self.bounds)

    @cached_property
    def by_class(self) -> dict[str, np.ndarray]:
        """Precision, recall and F1 of each class, float64 [C]; recall and F1 are NaN without support."""
        return dict(zip(("precision", "recall", "f1"), precision_recall_f1(*self.counts), strict=True))

    @cached_property
    def counts_by_text(self) -> ClassCounts:
        """Labels of each text: correctly predicted, true and predicted, int64 [N] each. Multi-label only."""
        targets, decided = self.label_matrix, self.decided
        assert decided is not None
        support = np.diff(targets.indptr)
        rows = np.repeat(np.arange(len(support)), support)
        correct = rows[decided[rows, targets.indices]]
        return ClassCounts(np.bincount(correct, minlength=len(support)), support, decided.sum(axis=1))

    @cached_property
    def average_precision(self) -> np.ndarray:
        """Average precision of each label, float64 [C]; NaN without support. Multi-label only."""
        assert self.logits is not None
        return average_precision(self.logits, self.label_matrix)

    @cached_property
    def ranking(self) -> dict[str, float]:
        """`recall_at_k`, `precision_at_k`, `ndcg_at_k` and `lrap`. Multi-label only."""
        assert self.logits is not None
        return ranking_scores(self.logits, self.label_matrix)
