"""Logits and what is true, a block of texts at a time.

Of thousands of labels there are hundreds of millions of pairs of text and label: no copy of them all is made.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy import sparse
from scipy.special import expit, softmax

from counterpoise.balance.counts import Targets

# Logits of a block: few enough for the processor's cache.
_CELLS = 2**18


@dataclass(frozen=True)
class Adjusted:
    """Logits (z - shift) / temperature, float64 [N, C], made of z where a slice of the texts is asked for.

    shift: float64 [C].
    """

    logits: np.ndarray
    shift: np.ndarray
    temperature: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Texts and classes."""
        return self.logits.shape

    def __getitem__(self, texts: slice) -> np.ndarray:
        return (self.logits[texts].astype(np.float64) - self.shift) / self.temperature


Logits: TypeAlias = np.ndarray | Adjusted


class Outcomes(NamedTuple):
    """Logits [N, C] and targets, int [N] or csr of bool [N, C], that fit each other.

    The outcomes are those of texts, whether the class that is decided for is the true one, or of pairs of text and
    label. decided: the classes or labels that are decided for, int [N] or bool [N, C], where they are not the most
    probable class, or the labels above 1/2.
    """

    logits: Logits
    targets: Targets
    decided: np.ndarray | None = None

    @classmethod
    def of(cls, logits: Logits, targets: Targets, decided: np.ndarray | None = None) -> "Outcomes":
        """Returns them checked; targets may also be dense, bool [N, C]. Raises ValueError where they do not fit."""
        scores = logits if isinstance(logits, Adjusted) else np.asarray(logits)
        if len(scores.shape) != 2 or 0 in scores.shape:
            raise ValueError(f"logits of shape {scores.shape}: [N, C], neither of them 0, is expected")
        if targets.shape not in (scores.shape, scores.shape[:1]):
            raise ValueError(f"logits of shape {scores.shape} and targets of shape {targets.shape} do not fit")
        if decided is not None and decided.shape != targets.shape:
            raise ValueError(f"targets of shape {targets.shape} and decisions of shape {decided.shape} do not fit")
        if len(targets.shape) == 2:
            return cls(scores, sparse.csr_matrix(targets, dtype=bool), decided)
        if targets.min() < 0 or targets.max() >= scores.shape[1]:
            raise ValueError(f"classes {targets.min()} to {targets.max()}, and logits of {scores.shape[1]}")
        return cls(scores, np.asarray(targets, np.int64), decided)

    @property
    def pairs(self) -> bool:
        """Whether each pair of text and label is an outcome."""
        return len(self.targets.shape) == 2

    @property
    def total(self) -> int:
        """How many outcomes there are."""
        return int(np.prod(self.targets.shape))

    @property
    def finite(self) -> bool:
        """Whether all logits are finite."""
        given = self.logits.logits if isinstance(self.logits, Adjusted) else self.logits
        return bool(np.isfinite([given.min(), given.max()]).all())

    def scores(self, cells: int | None = None) -> Iterator[np.ndarray]:
        """Yields the logits of some texts at a time, float64 [n, C]."""
        for part in self._parts(cells):
            yield self.logits[part].astype(np.float64, copy=False)

    def blocks(self, cells: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields logits, float64 [n, C], and targets, int [n] or bool [n, C], of some texts at a time."""
        for part, scores in zip(self._parts(cells), self.scores(cells), strict=True):
            truth = self.targets[part]
            yield scores, truth if isinstance(truth, np.ndarray) else truth.toarray()

    def _parts(self, cells: int | None) -> Iterator[slice]:
        texts, classes = self.logits.shape
        step = max(1, (cells or _CELLS) // classes)
        return (slice(start, start + step) for start in range(0, texts, step))

    def confidences(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields how sure the model is of some outcomes, float64 [M], and whether they came true, bool [M]."""
        for part, (scores, truth) in zip(self._parts(None), self.blocks(), strict=True):
            if self.pairs:
                yield expit(scores).ravel(), truth.ravel()
            else:
                decided = self._decided(part, scores)
                yield at(softmax(scores, axis=1), decided), decided == truth

    def decisions(self, cells: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields how sure the model is of some decisions, float64 [M], and whether they are wrong, bool [M].

        Of texts that is the probability of the class, of pairs of text and label the logit of that of the decision.
        """
        if not self.pairs:
            yield from ((confidence, ~came_true) for confidence, came_true in self.confidences())
            return
        for part, (scores, truth) in zip(self._parts(cells), self.blocks(cells), strict=True):
            decided = self._decided(part, scores)
            yield np.where(decided, scores, -scores).ravel(), (decided != truth).ravel()

    def _decided(self, part: slice, scores: np.ndarray) -> np.ndarray:
        if self.decided is not None:
            return self.decided[part]
        return scores > 0 if self.pairs else scores.argmax(axis=1)


def at(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Returns the value of each row's class, [N]."""
    return values[np.arange(len(classes)), classes]


def of_ranks(blocks: Callable[[], Iterator[np.ndarray]], ranks: np.ndarray) -> np.ndarray:
    """Returns the values of these ranks (0 the lowest) among all of the blocks, float64, not negative, unsorted.

    The leading bits of such a number rise with it. They are counted, and only what shares them with a value that is
    looked for is gathered and sorted.
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
