"""Samplers: which rows an epoch draws. Class first, then member; no Python work per row.

`torch.multinomial`, hence `WeightedRandomSampler`, draws rows from one long vector of weights: it refuses more
than 2^24 rows and loses accuracy before that. Drawing the class first has no such limit.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeAlias

import numpy as np
from scipy import sparse

from counterpoise.errors import UserError

EPOCH_SIZES = ("data", "smallest", "median", "largest")

Targets: TypeAlias = np.ndarray | sparse.csr_matrix
"""Class numbers, int [N], or which labels each row holds, bool csr [N, C]."""


@dataclass(frozen=True)
class ClassIndex:
    """The rows of each class or label: `rows[starts[c]:starts[c + 1]]`, sorted, are those of number c.

    A row is in one class; it may hold several labels, or none.
    """

    rows: np.ndarray
    starts: np.ndarray
    num_rows: int
    multi_label: bool = False

    @classmethod
    def of(cls, targets: Targets, num_classes: int) -> "ClassIndex":
        """Returns the index of class numbers (int [N], values in [0, num_classes)) or of label sets (csr [N, C])."""
        if not isinstance(targets, np.ndarray):
            by_label = targets.tocsc()
            return cls(by_label.indices.astype(np.int64), by_label.indptr.astype(np.int64), targets.shape[0], True)
        # A narrow type lets numpy's stable sort run as a radix sort, in linear time.
        narrow = targets.astype(np.uint16 if num_classes <= 2**16 else np.int64)
        counts = np.bincount(targets, minlength=num_classes)
        return cls(np.argsort(narrow, kind="stable"), np.concatenate([[0], np.cumsum(counts)]), len(targets))

    @property
    def counts(self) -> np.ndarray:
        """n_c, int64 [C]."""
        return np.diff(self.starts)

    @cached_property
    def unlabelled(self) -> np.ndarray:
        """The rows that hold no label, int64; none in single-label data."""
        labelled = np.zeros(self.num_rows, bool)
        labelled[self.rows] = True
        return np.flatnonzero(~labelled)

    def members(self, c: int | np.integer) -> np.ndarray:
        """Returns the rows of number `c`, int64 [n_c]."""
        return self.rows[self.starts[c] : self.starts[c + 1]]

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Returns the sum of `values` (float [N]) over the members of each class, float64 [C]."""
        sums, present = np.zeros(len(self.starts) - 1), self.counts > 0
        # Segments without rows are skipped: reduceat would return the next one's first value for them.
        sums[present] = np.add.reduceat(values[self.rows], self.starts[:-1][present], dtype=np.float64)
        return sums


class Sampler(Protocol):
    """What an epoch draws."""

    def size(self, index: ClassIndex) -> int:
        """Returns the number of rows drawn in an epoch."""

    def rates(self, index: ClassIndex) -> np.ndarray:
        """Returns how often each row is drawn in an epoch, in expectation: float64 [N], summing to `size`."""

    def draw(self, index: ClassIndex, rng: np.random.Generator) -> np.ndarray:
        """Returns the rows of one epoch in random order, int64 [size]: a function of `rng` alone."""


@dataclass(frozen=True)
class PowerSampler:
    """Draws class c with probability q_c ~ n_c^(1 - alpha), then one of its members.

    alpha 0 draws the data as it is, 1/2 by the square root of the counts (Mahajan et al., ECCV 2018), 1 every
    class equally often (the class-balanced sampler of Kang et al., ICLR 2020).

    Of multi-label data, alpha 0 draws every row alike, and alpha above 0 a label and then one of its rows
    (class-aware sampling; Shen et al., ECCV 2016): the row's other labels ride along, so that a label is drawn more
    often than q_c says. Rows without labels are one more group of this kind.

    The draw is stratified: class c is drawn size * q_c times, rounded at random to a whole number without changing
    its expectation, and members repeat only after all others of their class were drawn. The probabilities are
    those of independent draws and the variance is smaller; plain sampling becomes an ordinary shuffled epoch, and
    undersampling a fresh subset of the large classes each epoch.

    epoch_size: "data" (as many rows as the data), "smallest", "median" or "largest" (the number of classes times
    that class count), or a number of rows.
    """

    alpha: float = 0.0
    epoch_size: str | int = "data"

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise UserError(f"strategy.sampler.alpha={self.alpha} favours the large classes: use 0 or more")
        if self.epoch_size not in EPOCH_SIZES and not (isinstance(self.epoch_size, int) and self.epoch_size > 0):
            raise UserError(
                f"strategy.sampler.epoch_size={self.epoch_size}: use {', '.join(EPOCH_SIZES)} or a number of rows"
            )

    def probabilities(self, counts: np.ndarray) -> np.ndarray:
        """Returns q_c, float64 [C], summing to 1. A class without rows is never drawn."""
        counts = np.asarray(counts, np.float64)
        powers = np.where(counts > 0, np.maximum(counts, 1) ** (1 - self.alpha), 0.0)
        return powers / powers.sum()

    def size(self, index: ClassIndex) -> int:
        """Returns the number of rows drawn in an epoch."""
        if isinstance(self.epoch_size, int):
            return self.epoch_size
        if self.epoch_size == "data":
            return index.num_rows
        counts = _with_unlabelled(index).counts
        present = counts[counts > 0]
        per_class = {"smallest": present.min(), "median": np.median(present), "largest": present.max()}
        return round(len(present) * float(per_class[self.epoch_size]))

    def rates(self, index: ClassIndex) -> np.ndarray:
        """Returns how often each row is drawn in an epoch, in expectation: float64 [N]."""
        groups = self._groups(index)
        per_row = self.size(index) * self.probabilities(groups.counts) / np.maximum(groups.counts, 1)
        return np.bincount(groups.rows, np.repeat(per_row, groups.counts), minlength=index.num_rows)

    def draw(self, index: ClassIndex, rng: np.random.Generator) -> np.ndarray:
        """Returns the rows of one epoch in random order, int64 [size]."""
        groups = self._groups(index)
        quotas = _round_at_random(self.size(index) * self.probabilities(groups.counts), rng)
        rows = np.concatenate([_take(groups.members(g), int(quotas[g]), rng) for g in np.flatnonzero(quotas)])
        rng.shuffle(rows)
        return rows

    def _groups(self, index: ClassIndex) -> ClassIndex:
        if index.multi_label and self.alpha == 0:
            return ClassIndex(np.arange(index.num_rows), np.array([0, index.num_rows]), index.num_rows)
        return _with_unlabelled(index)


@dataclass(frozen=True)
class RepeatFactorSampler:
    """Draws every row of the data, and rows of rare labels more than once (Gupta et al., CVPR 2019, LVIS).

    Row i is drawn r_i times: the largest r_c = max(1, sqrt(threshold / f_c)) of its labels, 1 where it has none, with
    f_c the share of rows that hold label c. A label's rows are drawn at most sqrt(threshold * N) times as often, and
    labels above the threshold are left alone.

    An epoch has sum_i r_i rows, rounded. A row is drawn floor(r_i) or one more times, at random; the chance of one
    more is scaled by what the rounding of the sum asks for.

    threshold: the share of rows below which a label is repeated, in [0, 1]. LVIS uses 0.001.
    """

    threshold: float = 0.001

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(f"strategy.sampler.threshold={self.threshold}: use a share of the rows, from 0 to 1")

    def factors(self, index: ClassIndex) -> np.ndarray:
        """Returns r_i, float64 [N]."""
        shares = np.maximum(index.counts, 1) / max(index.num_rows, 1)
        repeats = np.sqrt(self.threshold / shares)
        factors = np.ones(index.num_rows)
        for c in np.argsort(repeats):
            if repeats[c] > 1:
                factors[index.members(c)] = repeats[c]
        return factors

    def size(self, index: ClassIndex) -> int:
        """Returns the number of rows drawn in an epoch, the same in every epoch."""
        return round(float(self.factors(index).sum()))

    def rates(self, index: ClassIndex) -> np.ndarray:
        """Returns how often each row is drawn in an epoch, in expectation: float64 [N]."""
        factors = self.factors(index)
        whole = np.floor(factors)
        rest = factors - whole
        extra = round(float(factors.sum())) - whole.sum()
        return whole + rest * (extra / rest.sum() if extra else 0.0)

    def draw(self, index: ClassIndex, rng: np.random.Generator) -> np.ndarray:
        """Returns the rows of one epoch in random order, int64 [size]."""
        rates = self.rates(index)
        times = np.floor(rates).astype(np.int64)
        # In random order, so that neighbours are rounded up independently of each other.
        open_rows = rng.permutation(np.flatnonzero(rates > times))
        times[open_rows] += _round_at_random((rates - times)[open_rows], rng)
        rows = np.repeat(np.arange(index.num_rows), times)
        rng.shuffle(rows)
        return rows


@dataclass(frozen=True)
class Blend:
    """Draws a share of an epoch with a sampler and the rest from the data as it is.

    The rates are the mixture's, share * rates + (1 - share) * size / N: between the data and what the sampler makes of
    it. The epoch has the sampler's size whatever the share.

    share: in [0, 1].
    """

    sampler: Sampler
    share: float

    def size(self, index: ClassIndex) -> int:
        """Returns the number of rows drawn in an epoch."""
        return self.sampler.size(index)

    def rates(self, index: ClassIndex) -> np.ndarray:
        """Returns how often each row is drawn in an epoch, in expectation: float64 [N]."""
        return self.share * self.sampler.rates(index) + (1 - self.share) * self.size(index) / index.num_rows

    def draw(self, index: ClassIndex, rng: np.random.Generator) -> np.ndarray:
        """Returns the rows of one epoch in random order, int64 [size]."""
        size = self.size(index)
        balanced = int(self.share * size + rng.random())
        # What a sampler draws is in random order: a part of it is a random part.
        rows = np.concatenate(
            [self.sampler.draw(index, rng)[:balanced], _take(np.arange(index.num_rows), size - balanced, rng)]
        )
        rng.shuffle(rows)
        return rows


def _with_unlabelled(index: ClassIndex) -> ClassIndex:
    """Returns the index with one more group: the rows without labels."""
    if not index.multi_label:
        return index
    rows = np.concatenate([index.rows, index.unlabelled])
    return ClassIndex(rows, np.append(index.starts, len(rows)), index.num_rows, True)


def _round_at_random(expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns whole numbers with the given expectations and their exact sum (systematic sampling)."""
    whole = np.floor(expected)
    edges = np.concatenate([[0.0], np.cumsum(expected - whole)])
    edges[-1] = round(edges[-1])
    return (whole + np.diff(np.floor(edges + rng.random()))).astype(np.int64)


def _take(members: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    passes, rest = divmod(k, len(members))
    some = rng.choice(members, rest, replace=False, shuffle=False)
    return np.concatenate([np.tile(members, passes), some])
