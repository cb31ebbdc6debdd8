"""The results of a tested run, which its files and its report are written from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.special import logsumexp

from counterpoise.balance import Correction
from counterpoise.balance.counts import Targets
from counterpoise.metrics import multi_label, single_label
from counterpoise.metrics.buckets import Bounds, buckets
from counterpoise.metrics.calibration import Calibration
from counterpoise.metrics.class_counts import ClassCounts

BLOCK_SIZE = 2**21
"""Logits that are processed at a time, because copies of all logits of thousands of classes need too much memory."""


@dataclass(frozen=True)
class BaselineResults:
    """Test results of the baseline.

    Args:
        logits: Logits, float [N, C].
        decided: Predicted labels, bool [N, C]; None for single-label data.
    """

    logits: np.ndarray
    decided: np.ndarray | None


@dataclass(frozen=True)
class RunResults:
    """A tested run.

    Logits are float [N, C] in the order of the targets. Targets are int [N] for single-label data and bool csr [N, C]
    for multi-label data.

    Args:
        name: Name of the data.
        strategy: Name of the strategy.
        probe: Whether the encoder was frozen (linear probe).
        config: Resolved configuration.
        metrics: Content of `metrics.json`.
        seconds: Duration of the run so far without building the cache, or None.
        correction: Correction that the tested checkpoint was trained with.
        effective_prior: Effective prior including the loss's own offsets, float [C].
        bounds: Training counts that separate head, medium and tail.
        ids: Ids of the test texts.
        texts: Returns the test texts of given rows.
        test_targets: Targets of the test split.
        test_logits: Logits of the test split.
        validation_targets: Targets of the validation split.
        validation_logits: Logits of the validation split.
        lengths: Tokens of each training text before truncation, int.
        max_length: Largest number of tokens of a text that is read whole.
        decided: Predicted labels of the test texts, bool [N, C]; None for single-label data.
        thresholds: Probability threshold of each label, float [C]; None for single-label data.
        least_cost: Class of least expected cost for each test text, int [N]; None without a cost matrix.
        calibration: Calibration of the probabilities; None if the logits were not finite.
        history: Content of `csv/metrics.csv`, or None.
        data_warnings: Warnings about the data, one line each.
        baseline: The linear baseline on the test split; None without one.
    """

    name: str
    strategy: str
    probe: bool
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    seconds: float | None
    correction: Correction
    effective_prior: np.ndarray
    bounds: Bounds
    ids: Sequence[str]
    texts: Callable[[np.ndarray], Sequence[str]]
    test_targets: Targets
    test_logits: np.ndarray
    validation_targets: Targets
    validation_logits: np.ndarray
    lengths: np.ndarray
    max_length: int
    decided: np.ndarray | None = None
    thresholds: np.ndarray | None = None
    least_cost: np.ndarray | None = None
    calibration: Calibration | None = None
    history: pd.DataFrame | None = None
    data_warnings: Sequence[str] = ()
    baseline: BaselineResults | None = None

    def setting(self, *keys: str) -> Any:
        """Return the value below these nested keys of the configuration, or None if there is none."""
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    @property
    def labels(self) -> list[str]:
        """Names of the C classes or labels."""
        return list(self.correction.labels)

    @property
    def counts(self) -> np.ndarray:
        """Training examples of each class or positives of each label, int64 [C]."""
        return self.correction.counts

    @property
    def multi_label(self) -> bool:
        """Whether a text can have several labels."""
        return self.correction.multi_label

    @property
    def noun(self) -> str:
        """The word "class" or "label"."""
        return "label" if self.multi_label else "class"

    @property
    def nouns(self) -> str:
        """The word "classes" or "labels"."""
        return "labels" if self.multi_label else "classes"

    @property
    def buckets(self) -> np.ndarray:
        """Bucket of each class: "head", "medium" or "tail", str [C]."""
        return buckets(self.counts, *self.bounds)

    @cached_property
    def truth(self) -> csr_matrix:
        """True classes or labels of the test texts, bool [N, C]."""
        return one_hot(self.test_targets, len(self.labels))

    @cached_property
    def predicted(self) -> csr_matrix:
        """Predicted classes or labels of the test texts, bool [N, C]."""
        return _predicted(self.test_logits, self.decided)

    @cached_property
    def baseline_predicted(self) -> csr_matrix:
        """Classes or labels of the test texts that the baseline predicts, bool [N, C]."""
        assert self.baseline is not None
        return _predicted(self.baseline.logits, self.baseline.decided)

    @cached_property
    def normalisers(self) -> np.ndarray:
        """Log of the sum of exp(logits) of each test text, float64 [N]: logits minus this are log-probabilities."""
        rows = max(1, BLOCK_SIZE // len(self.labels))
        blocks = (self.test_logits[start : start + rows] for start in range(0, len(self.test_logits), rows))
        return np.concatenate([np.empty(0), *(logsumexp(block.astype(np.float64), axis=1) for block in blocks)])

    @cached_property
    def table(self) -> pd.DataFrame:
        """Scores of each class (`single_label.per_class`) or label (`multi_label.per_label`), one row each."""
        if self.decided is not None:
            return multi_label.per_label(self.decided, self.test_logits, self.test_targets, self.counts)
        predicted = self.test_logits.argmax(axis=1)
        class_counts = ClassCounts.of(self.test_targets, predicted, len(self.labels))
        return single_label.per_class(class_counts, self.counts)


def _predicted(logits: np.ndarray, decided: np.ndarray | None) -> csr_matrix:
    return one_hot(logits.argmax(axis=1), logits.shape[1]) if decided is None else csr_matrix(decided)


def one_hot(targets: Targets, classes: int) -> csr_matrix:
    """Return targets, int [N] or csr [N, C], as bool csr [N, C]."""
    if not isinstance(targets, np.ndarray):
        return csr_matrix(targets, dtype=bool)
    rows = np.arange(len(targets))
    return csr_matrix((np.ones(len(targets), bool), (rows, targets)), (len(targets), classes))
