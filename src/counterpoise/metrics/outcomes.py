"""Logits and targets of many outcomes, read one block of texts at a time.

Thousands of labels give hundreds of millions of pairs of text and label, so that no full copy is made.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy import sparse
from scipy.special import expit, softmax

from counterpoise.balance.counts import Targets

# Logits per block: few enough for the processor's cache.
_BLOCK_CELLS = 2**18


@dataclass(frozen=True)
class AdjustedLogits:
    """Logits (z - shift) / temperature, float64 [N, C], computed when a slice of the texts is read.

    Args:
        logits: z, float [N, C].
        shift: Float64 [C].
        temperature: Above 0. Defaults to 1.
    """

    logits: np.ndarray
    shift: np.ndarray
    temperature: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C)."""
        return self.logits.shape

    def __getitem__(self, texts: slice) -> np.ndarray:
        return (self.logits[texts].astype(np.float64) - self.shift) / self.temperature


Logits: TypeAlias = np.ndarray | AdjustedLogits


class ScoredOutcomes(NamedTuple):
    """Logits and matching targets.

    Single-label data have one outcome per text: whether the predicted class is the true one. Multi-label data have one
    outcome per pair of text and label.

    Args:
        logits: Float [N, C].
        targets: Class numbers, int [N], or labels, bool csr [N, C].
        decided: Predicted classes, int [N], or labels, bool [N, C]. Defaults to the most probable class, or the labels
            above 1/2.
    """

    logits: Logits
    targets: Targets
    decided: np.ndarray | None = None

    @classmethod
    def of(cls, logits: Logits, targets: Targets, decided: np.ndarray | None = None) -> "ScoredOutcomes":
        """Check the arguments and return the outcomes. Targets may also be dense, bool [N, C].

        Raises:
            ValueError: The shapes do not match, nothing is given, or a class number is out of range.
        """
        scores = logits if isinstance(logits, AdjustedLogits) else np.asarray(logits)
        if len(scores.shape) != 2 or 0 in scores.shape:
            raise ValueError(f"expected logits of shape [N, C] with N and C above 0, got {scores.shape}")
        if targets.shape not in (scores.shape, scores.shape[:1]):
            raise ValueError(f"logits of shape {scores.shape} and targets of shape {targets.shape} do not fit")
        if decided is not None and decided.shape != targets.shape:
            raise ValueError(f"targets of shape {targets.shape} and decisions of shape {decided.shape} do not fit")
        if len(targets.shape) == 2:
            return cls(scores, sparse.csr_matrix(targets, dtype=bool), decided)
        if targets.min() < 0 or targets.max() >= scores.shape[1]:
            raise ValueError(
                f"targets are classes {targets.min()} to {targets.max()}, but logits have {scores.shape[1]}"
            )
        return cls(scores, np.asarray(targets, np.int64), decided)

    @property
    def pairs(self) -> bool:
        """Whether each pair of text and label is an outcome (multi-label)."""
        return len(self.targets.shape) == 2

    @property
    def total(self) -> int:
        """Number of outcomes."""
        return int(np.prod(self.targets.shape))

    @property
    def finite(self) -> bool:
        """Whether all logits are finite."""
        given = self.logits.logits if isinstance(self.logits, AdjustedLogits) else self.logits
        return bool(np.isfinite([given.min(), given.max()]).all())

    def scores(self, cells: int | None = None) -> Iterator[np.ndarray]:
        """Yield blocks of logits, float64 [n, C], of at most `cells` values."""
        for part in self._parts(cells):
            yield self.logits[part].astype(np.float64, copy=False)

    def blocks(self, cells: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield blocks of logits, float64 [n, C], and targets, int [n] or bool [n, C]."""
        for part, scores in zip(self._parts(cells), self.scores(cells), strict=True):
            truth = self.targets[part]
            yield scores, truth if isinstance(truth, np.ndarray) else truth.toarray()

    def _parts(self, cells: int | None) -> Iterator[slice]:
        texts, classes = self.logits.shape
        step = max(1, (cells or _BLOCK_CELLS) // classes)
        return (slice(start, start + step) for start in range(0, texts, step))

    def confidences(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield blocks of predicted probabilities, float64 [M], and whether the outcomes occurred, bool [M]."""
        for part, (scores, truth) in zip(self._parts(None), self.blocks(), strict=True):
            if self.pairs:
                yield expit(scores).ravel(), truth.ravel()
            else:
                decided = self._decided(part, scores)
                yield at(softmax(scores, axis=1), decided), decided == truth

    def decisions(self, cells: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield blocks of confidences in decisions, float64 [M], and whether the decisions are wrong, bool [M].

        The confidence is the probability of the class or, multi-label, the logit of the decision for or against the
        label.
        """
        if not self.pairs:
            yield from ((confidence, ~occurred) for confidence, occurred in self.confidences())
            return
        for part, (scores, truth) in zip(self._parts(cells), self.blocks(cells), strict=True):
            decided = self._decided(part, scores)
            yield np.where(decided, scores, -scores).ravel(), (decided != truth).ravel()

    def _decided(self, part: slice, scores: np.ndarray) -> np.ndarray:
        if self.decided is not None:
            return self.decided[part]
        return scores > 0 if self.pairs else scores.argmax(axis=1)


def at(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the value [N] of each row's class; values: [N, C]; classes: int [N]."""
    return values[np.arange(len(classes)), classes]


def order_statistics(blocks: Callable[[], Iterator[np.ndarray]], ranks: np.ndarray) -> np.ndarray:
    """Return the values of given ranks without holding all values in memory.

    The bit patterns of non-negative floats have the order of their values. The leading bits are counted, and only
    values that share them with a wanted one are gathered and sorted. `numpy.partition` would need a copy of all
    values for each calibration variant.

    Args:
        blocks: Yields the values on each call, float64, not negative, in any order.
        ranks: Int [K]; 0 is the lowest value.

    Returns:
        Float64 [K].
    """
    counts = np.zeros(2**17, np.int64)
    for values in blocks():
        leading = values.view(np.int64) >> 46
        highest = int(leading.max()) + 1
        counts[:highest] += np.bincount(leading, minlength=highest)
    ends = np.cumsum(counts)
    wanted = np.searchsorted(ends, ranks, side="right")
    gathered = np.zeros(len(counts), bool)
    gathered[wanted] = True
    found = np.sort(np.concatenate([values[gathered[values.view(np.int64) >> 46]] for values in blocks()]))
    skipped = (np.cumsum(np.where(gathered, 0, counts)))[wanted]
    return found[ranks - skipped]
