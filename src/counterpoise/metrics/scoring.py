"""What an evaluation gathers over batches and processes, and the scores it comes to."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from counterpoise.metrics import multi_label, single_label
from counterpoise.metrics.buckets import Bounds
from counterpoise.metrics.probabilities import negative_log_likelihood
from counterpoise.metrics.single_label import Tally
from counterpoise.metrics.thresholds import Decision


class SingleLabelScoring(nn.Module):
    """The tally of each class and the unweighted cross-entropy.

    counts: int [C], training examples of each class. bounds: of head, medium and tail.
    """

    def __init__(self, counts: np.ndarray, bounds: Bounds) -> None:
        super().__init__()
        self.counts, self.bounds = counts, bounds
        self.tally = _Tallies(len(counts))
        self.losses = Mean()

    def update(self, logits: Tensor, classes: Tensor) -> None:
        """Adds a batch: logits [B, C], classes int64 [B]."""
        self.tally.update(logits.argmax(-1), classes)
        self.losses.update(F.cross_entropy(logits.float(), classes), len(classes))

    def reset(self) -> None:
        """Forgets all batches."""
        self.tally.reset()
        self.losses.reset()

    def scores(self) -> dict[str, float]:
        """Returns the scores of `evaluate.metrics.scores` and the unweighted loss."""
        tally = Tally(*self.tally.compute().cpu().numpy())
        return single_label.scores(tally, self.counts, *self.bounds) | {"loss": float(self.losses.compute())}

    def names(self, classes: np.ndarray) -> list[str]:
        """Returns what `scores` names on texts of these classes, int [N]."""
        right = Tally.of(classes, classes, len(self.counts))
        return [*single_label.scores(right, self.counts, *self.bounds), "loss"]

    def measure(self, logits: np.ndarray, classes: np.ndarray) -> dict[str, float]:
        """Returns the same for given logits [N, C] and classes int [N]."""
        tally = Tally.of(classes, logits.argmax(1), len(self.counts))
        loss = negative_log_likelihood(logits, classes)
        return single_label.scores(tally, self.counts, *self.bounds) | {"loss": loss}


class MultiLabelScoring(nn.Module):
    """All logits and targets, and the thresholds.

    labels: C names; counts: int [C], training positives of each; bounds: of head, medium and tail. `thresholds`,
    float64 [C], are saved with the weights. They stay on the CPU: not every device has double precision.
    """

    thresholds: Tensor

    def __init__(self, labels: Sequence[str], counts: np.ndarray, bounds: Bounds, decision: Decision) -> None:
        super().__init__()
        self.counts, self.bounds, self.decision = counts, bounds, decision
        self.register_buffer("thresholds", torch.from_numpy(decision.initial(labels)))
        self.gathered = _Gathered()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MultiLabelScoring":
        thresholds = self._buffers.pop("thresholds")
        super()._apply(fn, recurse)
        self._buffers["thresholds"] = thresholds
        return self

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Adds a batch: logits [B, C], targets float [B, C]."""
        self.gathered.update(logits, targets)

    def reset(self) -> None:
        """Forgets all batches; the thresholds stay."""
        self.gathered.reset()

    def scores(self, tune: bool = False) -> dict[str, float]:
        """Returns the scores of `evaluate.multilabel.scores` and the unweighted binary cross-entropy, the mean
        over texts and labels. tune: chooses new thresholds first.
        """
        logits, targets = self.gathered.compute()
        if tune:
            self.tune(logits, targets)
        return self.measure(logits, targets)

    def tune(self, logits: np.ndarray, targets: csr_matrix) -> None:
        """Chooses the thresholds on logits [N, C] and targets bool [N, C], where the decision has any to choose."""
        if self.decision.tunes:
            self.thresholds.copy_(torch.from_numpy(self.decision.fit(logits, targets)))

    def names(self, targets: csr_matrix) -> list[str]:
        """Returns what `scores` names on texts with these labels, bool [N, C]."""
        # One label of each bucket that they have, and as many as the scores at k ask for, of thousands.
        held = np.flatnonzero(np.asarray(targets.sum(axis=0)).ravel())
        _, first = np.unique(single_label.buckets(self.counts, *self.bounds)[held], return_index=True)
        some = np.union1d(held[first], held[: max(multi_label.K)])
        right = np.eye(len(some), dtype=bool)
        counts = self.counts[some]
        return [*multi_label.scores(right, right.astype(float), csr_matrix(right), counts, *self.bounds), "loss"]

    def measure(self, logits: np.ndarray, targets: csr_matrix, threshold: float | None = None) -> dict[str, float]:
        """Returns the same for given logits [N, C] and targets bool [N, C]; `threshold`: one for all labels instead."""
        decision = self.decision if threshold is None else Decision(threshold)
        thresholds = self.thresholds.numpy() if threshold is None else decision.fit(logits, targets)
        decided = decision.decide(logits, thresholds)
        scores = multi_label.scores(decided, logits, targets, self.counts, *self.bounds)
        return scores | {"loss": negative_log_likelihood(logits, targets)}

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Returns which labels each text gets, bool [N, C], of logits [N, C]."""
        return self.decision.decide(logits, self.thresholds.numpy())


class Mean(Metric):
    """The mean over texts of values that are means over batches. A batch without a number leaves none: it would go
    unnoticed in torchmetrics' own.
    """

    total: Tensor
    texts: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "texts"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, value: Tensor, texts: int) -> None:
        """Adds the mean over so many texts, a scalar."""
        self.total += value * texts
        self.texts += texts

    def compute(self) -> Tensor:
        """Returns the mean, over all batches and processes."""
        return self.total / self.texts


class _Tallies(Metric):
    """Hits, support and predictions of each class, int64 [3, C], without the C x C cells of a confusion matrix."""

    counts: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("counts", torch.zeros(3 * classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Adds a batch of class numbers, int64 [B] each."""
        cells = torch.stack([truth, truth + self.classes, predicted + 2 * self.classes])
        counted = torch.ones_like(cells)
        counted[0] = predicted == truth
        self.counts.index_add_(0, cells.flatten(), counted.flatten())

    def compute(self) -> Tensor:
        """Returns int64 [3, C], over all batches and processes."""
        return self.counts.view(3, -1)


class _Gathered(Metric):
    """Logits and targets of all batches; of the targets only which are true is kept."""

    logits: list[Tensor]
    sizes: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__(compute_with_cache=False)
        for name in ("logits", "sizes", "labels"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Adds a batch: logits [B, C], targets [B, C]."""
        true = targets > 0.5
        self.logits.append(logits.float())
        self.sizes.append(true.sum(dim=1))
        self.labels.append(true.nonzero()[:, 1])

    def compute(self) -> tuple[np.ndarray, csr_matrix]:
        """Returns logits, float32 [N, C], and targets, csr of bool [N, C], over all batches and processes."""
        logits, sizes, labels = (_joined(each).numpy() for each in (self.logits, self.sizes, self.labels))
        starts = np.append(0, np.cumsum(sizes))
        return logits, csr_matrix((np.ones(len(labels), bool), labels, starts), logits.shape)


def _joined(blocks: Tensor | list[Tensor]) -> Tensor:
    """Returns the blocks one below the other, on the CPU, and leaves only that in their list.

    With several processes a tensor takes the place of the list, in which the blocks of all are joined already.
    """
    if isinstance(blocks, Tensor):
        return blocks.cpu()
    end = sum(len(block) for block in blocks)
    joined = torch.empty((end, *blocks[0].shape[1:]), dtype=blocks[0].dtype)
    while blocks:
        block = blocks.pop()  # from the end, and let go at once, so that the allocator can give it back
        joined[end - len(block) : end] = block
        end -= len(block)
    blocks.append(joined)
    return joined
