"""Accumulators of an evaluation: batches of logits in, metrics out, over all processes."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from counterpoise.metrics import multi_label, registry
from counterpoise.metrics.buckets import Bounds
from counterpoise.metrics.class_counts import ClassCounts
from counterpoise.metrics.probabilities import negative_log_likelihood
from counterpoise.metrics.split import EvaluatedSplit
from counterpoise.metrics.thresholds import Decision


class SingleLabelScoring(nn.Module):
    """Class counts and unweighted cross-entropy of single-label data.

    Logits are kept only if a registered metric needs them.

    Args:
        counts: Training examples of each class, int [C].
        bounds: Bounds of head, medium and tail.
    """

    multi_label = False
    thresholds = None

    def __init__(self, counts: np.ndarray, bounds: Bounds) -> None:
        super().__init__()
        self.counts, self.bounds = counts, bounds
        # Kept by the module: a spawned process has not loaded a fork's metrics.
        self.metrics = registry.select("single_label")
        self.class_counts = AccumulatedCounts(len(counts))
        self.losses = Mean()
        needs_logits = any(each.needs == "logits" for each in self.metrics)
        self.accumulated = AccumulatedLogits() if needs_logits else None

    def update(self, logits: Tensor, classes: Tensor) -> None:
        """Add a batch.

        Args:
            logits: Float [B, C].
            classes: True classes, int64 [B].
        """
        self.class_counts.update(logits.argmax(-1), classes)
        self.losses.update(F.cross_entropy(logits.float(), classes), len(classes))
        if self.accumulated is not None:
            self.accumulated.update(logits, classes)

    def reset(self) -> None:
        """Forget all batches."""
        for each in (self.class_counts, self.losses, self.accumulated):
            if each is not None:
                each.reset()

    def scores(self, tune: bool = False) -> dict[str, float]:
        """Return the metrics of all batches. `tune` has no effect: there are no thresholds."""
        counts = ClassCounts(*self.class_counts.compute().cpu().numpy())
        logits, classes = None, None
        if self.accumulated is not None:
            logits, held = self.accumulated.compute()
            classes = held.indices.astype(np.int64)
        return self._evaluate(counts, float(self.losses.compute()), logits, classes)

    def names(self, classes: np.ndarray) -> list[str]:
        """Return the names of the metrics of a split with these classes, int [N]."""
        return _names(self.metrics, np.bincount(classes, minlength=len(self.counts)), self.counts, self.bounds)

    def tune(self, logits: np.ndarray, classes: np.ndarray) -> None:
        """Do nothing: there are no thresholds."""

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Return the most probable class of each text, int [N], for logits [N, C]."""
        return logits.argmax(axis=1)

    def measure(self, logits: np.ndarray, classes: np.ndarray, threshold: float | None = None) -> dict[str, float]:
        """Return the metrics of logits [N, C] and classes int [N]. `threshold` has no effect."""
        counts = ClassCounts.of(classes, self.decide(logits), len(self.counts))
        return self._evaluate(counts, negative_log_likelihood(logits, classes), logits, classes)

    def _evaluate(
        self, counts: ClassCounts, loss: float, logits: np.ndarray | None, classes: np.ndarray | None
    ) -> dict[str, float]:
        decided = None if logits is None else self.decide(logits)
        train_counts = np.asarray(self.counts, np.int64)
        split = EvaluatedSplit("single_label", counts, train_counts, self.bounds, logits, classes, decided, loss)
        return registry.evaluate(split, self.metrics)


class MultiLabelScoring(nn.Module):
    """All logits and targets of multi-label data, and the thresholds.

    Args:
        labels: Names of the C labels.
        counts: Training positives of each label, int [C].
        bounds: Bounds of head, medium and tail.
        decision: How logits become labels.

    Attributes:
        thresholds: Probabilities, float64 [C], saved with the weights. They stay on the CPU, since not every device
            has double precision.
    """

    multi_label = True
    thresholds: Tensor

    def __init__(self, labels: Sequence[str], counts: np.ndarray, bounds: Bounds, decision: Decision) -> None:
        super().__init__()
        self.counts, self.bounds, self.decision = counts, bounds, decision
        # Kept by the module: a spawned process has not loaded a fork's metrics.
        self.metrics = registry.select("multi_label")
        self.register_buffer("thresholds", torch.from_numpy(decision.initial(labels)))
        self.accumulated = AccumulatedLogits()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MultiLabelScoring":
        thresholds = self._buffers.pop("thresholds")
        super()._apply(fn, recurse)
        self._buffers["thresholds"] = thresholds
        return self

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: logits and targets float [B, C]."""
        self.accumulated.update(logits, targets)

    def reset(self) -> None:
        """Forget all batches; the thresholds stay."""
        self.accumulated.reset()

    def scores(self, tune: bool = False) -> dict[str, float]:
        """Return the metrics of all batches; with `tune`, choose new thresholds first."""
        logits, targets = self.accumulated.compute()
        if tune:
            self.tune(logits, targets)
        return self.measure(logits, targets)

    def names(self, targets: csr_matrix) -> list[str]:
        """Return the names of the metrics of a split with these labels, bool csr [N, C]."""
        return _names(self.metrics, np.asarray(targets.sum(axis=0)).ravel(), self.counts, self.bounds)

    def tune(self, logits: np.ndarray, targets: csr_matrix) -> None:
        """Choose the thresholds for logits [N, C] and targets bool csr [N, C], unless the decision fixes them."""
        if self.decision.tunes:
            self.thresholds.copy_(torch.from_numpy(self.decision.fit(logits, targets)))

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Return the labels of each text, bool [N, C], for logits [N, C]."""
        return self.decision.decide(logits, self.thresholds.numpy())

    def measure(self, logits: np.ndarray, targets: csr_matrix, threshold: float | None = None) -> dict[str, float]:
        """Return the metrics of given logits.

        Args:
            logits: Float [N, C].
            targets: Bool csr [N, C].
            threshold: One probability for all labels in place of the tuned thresholds.
        """
        decided = self.decide(logits)
        if threshold is not None:
            decision = Decision(threshold)
            decided = decision.decide(logits, decision.fit(logits, targets))
        counts = multi_label.count_labels(decided, targets)
        loss, train_counts = (negative_log_likelihood(logits, targets), np.asarray(self.counts, np.int64))
        split = EvaluatedSplit("multi_label", counts, train_counts, self.bounds, logits, targets, decided, loss)
        return registry.evaluate(split, self.metrics)


Scoring: TypeAlias = SingleLabelScoring | MultiLabelScoring
"""Accumulator of one of the tasks."""


class Mean(Metric):
    """The mean over texts of values that are means over batches.

    Unlike torchmetrics' own mean, it keeps NaN: a batch without a finite loss must not go unnoticed.
    """

    total: Tensor
    texts: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "texts"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, value: Tensor, texts: int) -> None:
        """Add the mean of `texts` texts, a scalar."""
        self.total += value * texts
        self.texts += texts

    def compute(self) -> Tensor:
        """Return the mean over all batches and processes."""
        return self.total / self.texts


class AccumulatedCounts(Metric):
    """True positives, support and predictions of each class, without the C x C cells of a confusion matrix."""

    counts: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("counts", torch.zeros(3 * classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Add a batch of class numbers, int64 [B] each."""
        cells = torch.stack([truth, truth + self.classes, predicted + 2 * self.classes])
        counted = torch.ones_like(cells)
        counted[0] = predicted == truth
        self.counts.index_add_(0, cells.flatten(), counted.flatten())

    def compute(self) -> Tensor:
        """Return the fields of `ClassCounts`, int64 [3, C], over all batches and processes."""
        return self.counts.view(3, -1)


class AccumulatedLogits(Metric):
    """Logits and targets of all batches; targets are stored as the numbers of the true classes."""

    logits: list[Tensor]
    sizes: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__(compute_with_cache=False)
        for name in ("logits", "sizes", "labels"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: logits [B, C]; targets, int64 [B] or float [B, C]."""
        self.logits.append(logits.float())
        if targets.ndim == 1:
            self.sizes.append(torch.ones_like(targets))
            self.labels.append(targets)
        else:
            true = targets > 0.5
            self.sizes.append(true.sum(dim=1))
            self.labels.append(true.nonzero()[:, 1])

    def compute(self) -> tuple[np.ndarray, csr_matrix]:
        """Return logits, float32 [N, C], and targets, bool csr [N, C], over all batches and processes."""
        logits, sizes, labels = (_joined(each).numpy() for each in (self.logits, self.sizes, self.labels))
        starts = np.append(0, np.cumsum(sizes))
        return logits, csr_matrix((np.ones(len(labels), bool), labels, starts), logits.shape)


def _names(
    metrics: Sequence[registry.Metric], support: np.ndarray, train_counts: np.ndarray, bounds: Bounds
) -> list[str]:
    return [each.name for each in metrics if each.exists(support, np.asarray(train_counts), bounds)]


def _joined(blocks: Tensor | list[Tensor]) -> Tensor:
    """Concatenate blocks on the CPU and replace the contents of their list by the result.

    With several processes torchmetrics has already replaced the list by one tensor.
    """
    if isinstance(blocks, Tensor):
        return blocks.cpu()
    end = sum(len(block) for block in blocks)
    joined = torch.empty((end, *blocks[0].shape[1:]), dtype=blocks[0].dtype)
    while blocks:
        block = blocks.pop()  # Released at once, so that the allocator can reuse its memory.
        joined[end - len(block) : end] = block
        end -= len(block)
    blocks.append(joined)
    return joined
