"""What the report of a run is made of."""

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
from counterpoise.metrics import multi_label as multilabel
from counterpoise.metrics import single_label
from counterpoise.metrics.buckets import Bounds, buckets
from counterpoise.metrics.calibration import Calibration
from counterpoise.metrics.class_counts import ClassCounts

CELLS = 2**21
"""Logits that are looked at at a time: a copy of all those of thousands of classes would be what a run needs most."""


@dataclass(frozen=True)
class RunResults:
    """A tested run. Logits are float [N, C] in the order of the targets: int [N], or csr of bool [N, C].

    name: of the run. strategy: its name. probe: whether its encoder stayed frozen. config: resolved. metrics: what
    `metrics.json` holds. seconds: it took so far, or None. effective prior: float [C], of classes, by the strategy's loss.
    ids, texts: of the test split; texts(rows) are those of some of its rows.
    decided, thresholds: bool [N, C] and float [C], what test texts get and by which thresholds; multi-label only.
    calibration: as `evaluate.calibration.measure` returns it. history: `csv/metrics.csv`. audit: what
    `data.audit.remarkable` says. lengths: int, tokens of each training text, at most max_length; cut: the share of
    training texts that were longer.
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
    cut: float
    decided: np.ndarray | None = None
    thresholds: np.ndarray | None = None
    calibration: Calibration | None = None
    history: pd.DataFrame | None = None
    audit: Sequence[str] = ()

    def setting(self, *keys: str) -> Any:
        """Returns what the configuration holds under these keys, None where it has none of them."""
        found: Any = self.config
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    @property
    def labels(self) -> list[str]:
        """The C names of classes or labels."""
        return list(self.correction.labels)

    @property
    def counts(self) -> np.ndarray:
        """Training examples of each class or positives of each label, int64 [C]."""
        return self.correction.counts

    @property
    def multi_label(self) -> bool:
        """Whether a text may have any number of labels."""
        return self.correction.multi_label

    @property
    def noun(self) -> str:
        """What a class is called: class or label."""
        return "label" if self.multi_label else "class"

    @property
    def nouns(self) -> str:
        """The same of several."""
        return "labels" if self.multi_label else "classes"

    @property
    def buckets(self) -> np.ndarray:
        """Head, medium or tail, str [C]."""
        return buckets(self.counts, *self.bounds)

    @cached_property
    def truth(self) -> csr_matrix:
        """What is true of the test texts, bool [N, C]."""
        return one_hot(self.test_targets, len(self.labels))

    @cached_property
    def given(self) -> csr_matrix:
        """What the test texts get, bool [N, C]."""
        if self.decided is not None:
            return csr_matrix(self.decided)
        return one_hot(self.test_logits.argmax(axis=1), len(self.labels))

    @cached_property
    def normalisers(self) -> np.ndarray:
        """What is subtracted from a test text's logits to get the log of its classes' probabilities, float64 [N]."""
        step = max(1, CELLS // len(self.labels))
        parts = (self.test_logits[start : start + step] for start in range(0, len(self.test_logits), step))
        return np.concatenate([np.empty(0), *(logsumexp(part.astype(np.float64), axis=1) for part in parts)])

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per class, as `single_label.per_class`, multi-label `multilabel.per_label`, has it."""
        if self.decided is not None:
            return multilabel.per_label(self.decided, self.test_logits, self.test_targets, self.counts)
        predicted = self.test_logits.argmax(axis=1)
        return single_label.per_class(
            ClassCounts.of(self.test_targets, predicted, len(self.labels)), self.counts
        )


def one_hot(targets: Targets, classes: int) -> csr_matrix:
    """Returns targets, int [N] or csr [N, C], as csr of bool [N, C]."""
    if not isinstance(targets, np.ndarray):
        return csr_matrix(targets, dtype=bool)
    rows = np.arange(len(targets))
    return csr_matrix((np.ones(len(targets), bool), (rows, targets)), (len(targets), classes))
