"""What an evaluation gathers over batches and processes, and the scores it comes to."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.special import expit
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import CatMetric, MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from counterpoise.balance.adjust import negative_log_likelihood
from counterpoise.balance.decision import Decision
from counterpoise.evaluate import metrics, multilabel
from counterpoise.evaluate.metrics import Bounds


class SingleLabelScoring(nn.Module):
    """Confusion matrix and unweighted cross-entropy.

    counts: int [C], training examples of each class. bounds: of head, medium and tail.
    """

    def __init__(self, counts: np.ndarray, bounds: Bounds) -> None:
        super().__init__()
        self.counts, self.bounds = counts, bounds
        self.confusion = MulticlassConfusionMatrix(len(counts))
        self.losses = MeanMetric()

    def update(self, logits: Tensor, classes: Tensor) -> None:
        """Adds a batch: logits [B, C], classes int64 [B]."""
        self.confusion.update(logits.argmax(-1), classes)
        self.losses.update(F.cross_entropy(logits.float(), classes), len(classes))

    def reset(self) -> None:
        """Forgets all batches."""
        self.confusion.reset()
        self.losses.reset()

    def scores(self) -> dict[str, float]:
        """Returns the scores of `evaluate.metrics.scores` and the unweighted loss."""
        confusion = self.confusion.compute().cpu().numpy()
        return metrics.scores(confusion, self.counts, *self.bounds) | {"loss": float(self.losses.compute())}

    @property
    def names(self) -> list[str]:
        """What `scores` returns."""
        return list(self.measure(np.eye(len(self.counts)), np.arange(len(self.counts))))

    def measure(self, logits: np.ndarray, classes: np.ndarray) -> dict[str, float]:
        """Returns the same for given logits [N, C] and classes int [N]."""
        confusion = metrics.confusion_matrix(classes, logits.argmax(1), len(self.counts))
        loss = negative_log_likelihood(logits, classes)
        return metrics.scores(confusion, self.counts, *self.bounds) | {"loss": loss}


class MultiLabelScoring(nn.Module):
    """All logits and targets, and the thresholds.

    labels: C names; counts: int [C], training positives of each; bounds: of head, medium and tail. `thresholds`,
    float64 [C], are saved with the weights.
    """

    thresholds: Tensor

    def __init__(self, labels: Sequence[str], counts: np.ndarray, bounds: Bounds, decision: Decision) -> None:
        super().__init__()
        self.counts, self.bounds, self.decision = counts, bounds, decision
        self.register_buffer("thresholds", torch.from_numpy(decision.initial(labels)))
        self.logits, self.targets = CatMetric(nan_strategy="disable"), CatMetric(nan_strategy="disable")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Adds a batch: logits [B, C], targets float [B, C]."""
        self.logits.update(logits.float())
        self.targets.update(targets)

    def reset(self) -> None:
        """Forgets all batches; the thresholds stay."""
        self.logits.reset()
        self.targets.reset()

    def scores(self, tune: bool = False) -> dict[str, float]:
        """Returns the scores of `evaluate.multilabel.scores` and the unweighted binary cross-entropy, the mean
        over texts and labels. tune: chooses new thresholds first.
        """
        logits = self.logits.compute().cpu().numpy()
        targets = csr_matrix(self.targets.compute().cpu().numpy() > 0.5)
        if tune:
            self.tune(logits, targets)
        return self.measure(logits, targets)

    def tune(self, logits: np.ndarray, targets: csr_matrix) -> None:
        """Chooses the thresholds on logits [N, C] and targets bool [N, C], where the decision has any to choose."""
        if self.decision.tunes:
            self.thresholds.copy_(torch.from_numpy(self.decision.fit(logits, targets)))

    @property
    def names(self) -> list[str]:
        """What `scores` returns."""
        return list(self.measure(np.eye(len(self.counts)), csr_matrix(np.eye(len(self.counts), dtype=bool))))

    def measure(self, logits: np.ndarray, targets: csr_matrix, threshold: float | None = None) -> dict[str, float]:
        """Returns the same for given logits [N, C] and targets bool [N, C]; `threshold`: one for all labels instead."""
        decided = self.decide(logits) if threshold is None else expit(logits) > threshold
        losses = np.logaddexp(0, logits).sum(dtype=np.float64) - targets.multiply(logits).sum(dtype=np.float64)
        return multilabel.scores(decided, logits, targets, self.counts, *self.bounds) | {
            "loss": float(losses / logits.size)
        }

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Returns which labels each text gets, bool [N, C], of logits [N, C]."""
        return self.decision.decide(logits, self.thresholds.cpu().numpy())
