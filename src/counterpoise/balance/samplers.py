"""Samplers: which rows an epoch draws. Class first, then member; no Python work per row.

`torch.multinomial`, hence `WeightedRandomSampler`, draws rows from one long vector of weights: it refuses more
than 2^24 rows and loses accuracy before that. Drawing the class first has no such limit, and what is computed is
computed for classes: a row costs the four bytes of its number, once in the index and once in the draw.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from counterpoise.balance.counts import BLOCK, ClassIndex
from counterpoise.errors import UserError

EPOCH_SIZES = ("data", "smallest", "median", "largest")


class Sampler(Protocol):
    """What an epoch draws."""

    def size(self, index: ClassIndex) -> int:
        """Returns the number of rows drawn in an epoch."""

    def rates(self, index: ClassIndex) -> np.ndarray:
        """Returns how often each row is drawn in an epoch, in expectation: float64 [N], summing to `size`."""

    def expected_class_counts(self, index: ClassIndex) -> np.ndarray:
        """Returns how many positives of each class or label an epoch draws, in expectation: float64 [C].

        They are the sums of `rates`; the rows of a class are drawn alike, so that only labels need a number for each
        row.
        """

    def draw(self, index: ClassIndex, rng: np.random.Generator) -> np.ndarray:
        """Returns the rows of one epoch in random order, int [size], a new array: a function of `rng` alone."""


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
        counts = np.append(index.counts, len(index.unlabelled)) if index.multi_label else index.counts
        present = counts[counts > 0]
        per_class = {"smallest": present.min(), "median": np.median(present), "largest": present.max()}
        return round(len(present) * float(per_class[self.epoch_size]))

    def rates(self, index: ClassIndex) -> np.ndarray:
        """Returns how often each row is drawn in an epoch, in expectation: float64 [N]."""
        groups = self._groups(index)
        rates = np.zeros(index.num_rows)
        for group, drawn in zip(groups, self._expected(index, groups), strict=True):
            rates[group] += drawn / max(len(group), 1)
        return rates

    def expected_class_counts(self, index: ClassIndex) -> np.ndarray:
        """Returns how many positives of each class or label an epoch draws, in expectation: float64 [C]."""
        return index.sum(self.rates(index)) if index.multi_label else self._expected(index, self._groups(index))

    def draw(self, index: ClassIndex, rng: np.random.Generator) -> np.ndarray:
        """Returns the rows of one epoch in random order, int [size]."""
        groups = self._groups(index)
        quotas = _round_at_random(self._expected(index, groups), rng)
        rows = np.empty(quotas.sum(), index.rows.dtype)
        ends = np.cumsum(quotas)
        for g in np.flatnonzero(quotas):
            _take(groups[g], rows[ends[g] - quotas[g] : ends[g]], rng)
        rng.shuffle(rows)
        return rows

    def _groups(self, index: ClassIndex) -> list[np.ndarray]:
        """Returns the rows that are drawn alike."""
        if index.multi_label and self.alpha == 0:
            return [np.arange(index.num_rows, dtype=index.rows.dtype)]
        members = [index.members(c) for c in range(len(index.counts))]
        return [*members, index.unlabelled] if index.multi_label else members

    def _expected(self, index: ClassIndex, groups: list[np.ndarray]) -> np.ndarray:
        return self.size(index) * self.probabilities(np.array([len(group) for group in groups]))


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
        kinds, factors = self._kinds(index)
        return factors[kinds]

    def size(self, index: ClassIndex) -> int:
        """Returns the number of rows drawn in an epoch, the same in every epoch."""
        kinds, factors = self._kinds(index)
        return round(float(_counted(kinds, len(factors)) @ factors))

    def rates(self, index: ClassIndex) -> np.ndarray:
        """Returns how often each row is drawn in an epoch, in expectation: float64 [N]."""
        kinds, rates = self._rates(index)
        return rates[kinds]

    def expected_class_counts(self, index: ClassIndex) -> np.ndarray:
        """Returns how many positives of each class or label an epoch draws, in expectation: float64 [C]."""
        if index.multi_label:
            return index.sum(self.rates(index))
        kinds, rates = self._rates(index)
        drawn, present = np.zeros(len(index.counts)), index.counts > 0
        drawn[present] = index.counts[present] * rates[kinds[index.rows[index.starts[:-1][present]]]]
        return drawn

    def draw(self, index: ClassIndex, rng: np.random.Generator) -> np.ndarray:
        """Returns the rows of one epoch in random order, int [size]."""
        kinds, rates = self._rates(index)
        times = np.floor(rates).astype(np.int64)
        # In random order, so that neighbours are rounded up independently of each other.
        open_rows = rng.permutation(np.flatnonzero((rates > times)[kinds]))
        more = _round_at_random((rates - times)[kinds[open_rows]], rng)
        often = np.flatnonzero((times > 1)[kinds])
        once = np.arange(index.num_rows, dtype=index.rows.dtype)
        rows = np.concatenate([once, np.repeat(often, times[kinds[often]] - 1), open_rows[more > 0]], dtype=once.dtype)
        rows.sort(kind="stable")
        rng.shuffle(rows)
        return rows

    def _kinds(self, index: ClassIndex) -> tuple[np.ndarray, np.ndarray]:
        """Returns the kind of each row, int [N], and the r of each kind: 0 of rows without a rare label, then theirs,
        ascending.
        """
        shares = np.maximum(index.counts, 1) / max(index.num_rows, 1)
        repeats = np.sqrt(self.threshold / shares)
        rare = np.argsort(repeats)[np.count_nonzero(repeats <= 1) :]
        kinds = np.zeros(index.num_rows, np.min_scalar_type(len(rare)))
        # The rarest label comes last for every row, and what is written last stays.
        for kind, c in enumerate(rare, start=1):
            kinds[index.members(c)] = kind
        return kinds, np.append(1.0, repeats[rare])

    def _rates(self, index: ClassIndex) -> tuple[np.ndarray, np.ndarray]:
        """Returns the kind of each row, int [N], and how often a row of each kind is drawn, in expectation."""
        kinds, factors = self._kinds(index)
        counts = _counted(kinds, len(factors))
        whole = np.floor(factors)
        rest = factors - whole
        extra = round(float(counts @ factors)) - counts @ whole
        return kinds, whole + rest * (extra / (counts @ rest) if extra else 0.0)


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

    def expected_class_counts(self, index: ClassIndex) -> np.ndarray:
        """Returns how many positives of each class or label an epoch draws, in expectation: float64 [C]."""
        plain = index.counts * (self.size(index) / index.num_rows)
        return self.share * self.sampler.expected_class_counts(index) + (1 - self.share) * plain

    def draw(self, index: ClassIndex, rng: np.random.Generator) -> np.ndarray:
        """Returns the rows of one epoch in random order, int [size]."""
        size = self.size(index)
        balanced = int(self.share * size + rng.random())
        # What a sampler draws is in random order: a part of it is a random part.
        rows = self.sampler.draw(index, rng)
        _take(np.arange(index.num_rows, dtype=rows.dtype), rows[balanced:], rng)
        rng.shuffle(rows)
        return rows


def _counted(kinds: np.ndarray, number: int) -> np.ndarray:
    """Returns how many rows are of each of so many kinds, int64."""
    # Block by block, as numpy turns what it counts into int64.
    blocks = (kinds[start : start + BLOCK] for start in range(0, len(kinds), BLOCK))
    return sum((np.bincount(block, minlength=number) for block in blocks), np.zeros(number, np.int64))


def _round_at_random(expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns whole numbers with the given expectations and their exact sum (systematic sampling)."""
    whole = np.floor(expected)
    edges = np.concatenate([[0.0], np.cumsum(expected - whole)])
    edges[-1] = round(edges[-1])
    return (whole + np.diff(np.floor(edges + rng.random()))).astype(np.int64)


def _take(members: np.ndarray, out: np.ndarray, rng: np.random.Generator) -> None:
    """Fills `out` with members: none is drawn again before all others were."""
    passes, rest = divmod(len(out), len(members))
    whole = passes * len(members)
    out[:whole].reshape(passes, len(members))[:] = members
    out[whole:] = rng.choice(members, rest, replace=False, shuffle=False)
