"""Samplers: the rows of an epoch. A sampler draws the class first and then one of its rows, without Python loops.

`torch.multinomial` (and `WeightedRandomSampler`) draws from one weight vector over all rows. It is limited to 2^24 rows
and loses precision below that limit. Drawing the class first has no such limit. It needs four bytes per row for the
index and four for the drawn rows.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from counterpoise.balance.counts import BLOCK, ClassIndex
from counterpoise.balance.validation import check_exponent, check_number
from counterpoise.errors import UserError

EPOCH_SIZES = ("data", "smallest", "median", "largest")


class Sampler(Protocol):
    """Draws the rows of an epoch."""

    def size(self, index: ClassIndex) -> int:
        """Return the number of rows per epoch."""

    def draws_per_row(self, index: ClassIndex) -> np.ndarray:
        """Return the expected draws of each row per epoch, float64 [N]; sums to `size`."""

    def expected_class_counts(self, index: ClassIndex) -> np.ndarray:
        """Return the expected draws of each class or label per epoch, float64 [C]: sums of `draws_per_row`.

        For single-label data they need no array of length N, because all rows of a class have equal draws.
        """

    def draw_rates(self, counts: np.ndarray, num_rows: int) -> np.ndarray:
        """Return the expected draws of a row that has this class or label only, float64 [C], up to a common factor.

        The over-correction check reads them: neither rounding to whole epochs nor co-occurring labels are a correction.

        Args:
            counts: Class counts, above 0, [C].
            num_rows: Number of rows N.
        """

    def draw(self, index: ClassIndex, rng: np.random.Generator) -> np.ndarray:
        """Return the rows of one epoch in random order, int [size]. The result depends on `rng` only."""


@dataclass(frozen=True)
class PowerSampler:
    """Draws class c with probability q_c ~ n_c^(1 - alpha), then one of its rows.

    Multi-label: alpha = 0 draws all rows with equal probability; alpha > 0 draws a label and then one of its rows
    (class-aware sampling). The other labels of the row are drawn with it, so that labels are drawn more often than q_c.
    Rows without labels are one further group.

    Draws are stratified: class c is drawn size * q_c times, rounded randomly without changing the expectation, and a
    row repeats only after all other rows of its class. The probabilities equal those of independent draws, with less
    variance. alpha = 0 is an ordinary shuffled epoch, and undersampling uses a new subset of the large classes in each
    epoch.

    Args:
        alpha: Exponent, 0 to 10. 0 (default): as in the data; 1/2: square root; 1: class-balanced.
        epoch_size: "data" (default): number of training rows. "smallest", "median" or "largest": number of classes
            times that class count. Otherwise a number of rows.

    References:
        Square root: Mahajan et al., ECCV 2018. Class-balanced: Kang et al., ICLR 2020. Class-aware: Shen et al., ECCV
        2016.
    """

    alpha: float = 0.0
    epoch_size: str | int = "data"

    def __post_init__(self) -> None:
        check_exponent("alpha", self.alpha, "sampler")
        whole = isinstance(self.epoch_size, int) and not isinstance(self.epoch_size, bool) and self.epoch_size > 0
        if not whole and self.epoch_size not in EPOCH_SIZES:
            raise UserError(
                f"strategy.sampler.epoch_size={self.epoch_size}: use {', '.join(EPOCH_SIZES)} or a number of rows"
            )

    def probabilities(self, counts: np.ndarray) -> np.ndarray:
        """Return q_c, float64 [C]; sums to 1. A class without rows has probability 0."""
        counts = np.asarray(counts, np.float64)
        powers = np.where(counts > 0, np.maximum(counts, 1) ** (1 - self.alpha), 0.0)
        return powers / powers.sum()

    def draw_rates(self, counts: np.ndarray, num_rows: int) -> np.ndarray:
        """Return n_c^(-alpha), float64 [C]."""
        return np.asarray(counts, np.float64) ** -self.alpha

    def size(self, index: ClassIndex) -> int:
        """Return the number of rows per epoch."""
        if isinstance(self.epoch_size, int):
            return self.epoch_size
        if self.epoch_size == "data":
            return index.num_rows
        counts = np.append(index.counts, len(index.unlabelled)) if index.multi_label else index.counts
        present = counts[counts > 0]
        per_class = {"smallest": present.min(), "median": np.median(present), "largest": present.max()}
        return round(len(present) * float(per_class[self.epoch_size]))

    def draws_per_row(self, index: ClassIndex) -> np.ndarray:
        """Return the expected draws of each row per epoch, float64 [N]."""
        groups = self._groups(index)
        draws = np.zeros(index.num_rows)
        for group, group_draws in zip(groups, self._expected_draws(index, groups), strict=True):
            draws[group] += group_draws / max(len(group), 1)
        return draws

    def expected_class_counts(self, index: ClassIndex) -> np.ndarray:
        """Return the expected draws of each class or label per epoch, float64 [C]."""
        if index.multi_label:
            return index.sum(self.draws_per_row(index))
        return self._expected_draws(index, self._groups(index))

    def draw(self, index: ClassIndex, rng: np.random.Generator) -> np.ndarray:
        """Return the rows of one epoch in random order, int [size]."""
        groups = self._groups(index)
        draws = _round_systematically(self._expected_draws(index, groups), rng)
        rows = np.empty(draws.sum(), index.rows.dtype)
        ends = np.cumsum(draws)
        for g in np.flatnonzero(draws):
            _fill_evenly(rows[ends[g] - draws[g] : ends[g]], groups[g], rng)
        rng.shuffle(rows)
        return rows

    def _groups(self, index: ClassIndex) -> list[np.ndarray]:
        """Return the groups of rows with equal draws."""
        if index.multi_label and self.alpha == 0:
            return [np.arange(index.num_rows, dtype=index.rows.dtype)]
        members = [index.members(c) for c in range(len(index.counts))]
        return [*members, index.unlabelled] if index.multi_label else members

    def _expected_draws(self, index: ClassIndex, groups: list[np.ndarray]) -> np.ndarray:
        """Return the expected draws of each group per epoch."""
        return self.size(index) * self.probabilities(np.array([len(group) for group in groups]))


@dataclass(frozen=True)
class RepeatFactorSampler:
    """Repeat-factor sampling: draws every row, and rows with rare labels several times.

    Row i is drawn r_i times: the maximum of r_c = max(1, sqrt(threshold / f_c)) over its labels, or 1 without labels,
    where f_c is the fraction of rows with label c. The largest possible factor is sqrt(threshold * N).

    An epoch has sum_i r_i rows, rounded. Row i is drawn floor(r_i) or floor(r_i) + 1 times, at random.

    Args:
        threshold: Labels of a smaller fraction of the rows are repeated, in [0, 1]. Defaults to 0.001, as in LVIS.

    References:
        Gupta et al., CVPR 2019.
    """

    threshold: float = 0.001

    def __post_init__(self) -> None:
        rule = "a fraction of the rows, from 0 to 1"
        check_number("threshold", self.threshold, lambda value: 0 <= value <= 1, rule, "sampler")

    def draw_rates(self, counts: np.ndarray, num_rows: int) -> np.ndarray:
        """Return r_c = max(1, sqrt(threshold / f_c)), float64 [C]."""
        return np.maximum(1.0, np.sqrt(self.threshold * num_rows / np.asarray(counts, np.float64)))

    def repeat_factors(self, index: ClassIndex) -> np.ndarray:
        """Return r_i, float64 [N]."""
        group_of_row, factors = self._factor_groups(index)
        return factors[group_of_row]

    def size(self, index: ClassIndex) -> int:
        """Return the number of rows per epoch."""
        group_of_row, factors = self._factor_groups(index)
        return round(float(_count_groups(group_of_row, len(factors)) @ factors))

    def draws_per_row(self, index: ClassIndex) -> np.ndarray:
        """Return the expected draws of each row per epoch, float64 [N]."""
        group_of_row, draws = self._group_draws(index)
        return draws[group_of_row]

    def expected_class_counts(self, index: ClassIndex) -> np.ndarray:
        """Return the expected draws of each class or label per epoch, float64 [C]."""
        if index.multi_label:
            return index.sum(self.draws_per_row(index))
        group_of_row, draws = self._group_draws(index)
        class_draws, present = np.zeros(len(index.counts)), index.counts > 0
        first_rows = index.rows[index.starts[:-1][present]]
        class_draws[present] = index.counts[present] * draws[group_of_row[first_rows]]
        return class_draws

    def draw(self, index: ClassIndex, rng: np.random.Generator) -> np.ndarray:
        """Return the rows of one epoch in random order, int [size]."""
        group_of_row, draws = self._group_draws(index)
        whole = np.floor(draws).astype(np.int64)
        # A random order makes the rounding of neighbouring rows independent.
        fractional = rng.permutation(np.flatnonzero((draws > whole)[group_of_row]))
        extra = _round_systematically((draws - whole)[group_of_row[fractional]], rng)
        repeated = np.flatnonzero((whole > 1)[group_of_row])
        repeats = np.repeat(repeated, whole[group_of_row[repeated]] - 1)
        once = np.arange(index.num_rows, dtype=index.rows.dtype)
        rows = np.concatenate([once, repeats, fractional[extra > 0]], dtype=once.dtype)
        rows.sort(kind="stable")
        rng.shuffle(rows)
        return rows

    def _factor_groups(self, index: ClassIndex) -> tuple[np.ndarray, np.ndarray]:
        """Return the group of each row, int [N], and the repeat factor of each group, in ascending order.

        Group 0 holds the rows without rare labels.
        """
        frequencies = np.maximum(index.counts, 1) / max(index.num_rows, 1)
        factors = np.sqrt(self.threshold / frequencies)
        rare = np.argsort(factors)[np.count_nonzero(factors <= 1) :]
        group_of_row = np.zeros(index.num_rows, np.min_scalar_type(len(rare)))
        # The rarest label of a row is written last and determines its group.
        for group, c in enumerate(rare, start=1):
            group_of_row[index.members(c)] = group
        return group_of_row, np.append(1.0, factors[rare])

    def _group_draws(self, index: ClassIndex) -> tuple[np.ndarray, np.ndarray]:
        """Return the group of each row, int [N], and the expected draws of a row of each group.

        Fractional parts are scaled so that the total is a whole number.
        """
        group_of_row, factors = self._factor_groups(index)
        counts = _count_groups(group_of_row, len(factors))
        whole = np.floor(factors)
        fraction = factors - whole
        extra = round(float(counts @ factors)) - counts @ whole
        return group_of_row, whole + fraction * (extra / (counts @ fraction) if extra else 0.0)


@dataclass(frozen=True)
class MixtureSampler:
    """Draws a fraction of an epoch with a sampler and the rest uniformly.

    The expected draws of a row are fraction * draws_per_row + (1 - fraction) * size / N. The epoch size is the
    sampler's.

    Args:
        sampler: The sampler.
        fraction: Fraction drawn with the sampler, in [0, 1].
    """

    sampler: Sampler
    fraction: float

    def draw_rates(self, counts: np.ndarray, num_rows: int) -> np.ndarray:
        """Return the weighted mean of the sampler's rates and uniform ones, float64 [C]."""
        rates = self.sampler.draw_rates(counts, num_rows)
        return self.fraction * rates * (counts.sum() / (counts @ rates)) + (1 - self.fraction)

    def size(self, index: ClassIndex) -> int:
        """Return the number of rows per epoch."""
        return self.sampler.size(index)

    def draws_per_row(self, index: ClassIndex) -> np.ndarray:
        """Return the expected draws of each row per epoch, float64 [N]."""
        uniform = (1 - self.fraction) * self.size(index) / index.num_rows
        return self.fraction * self.sampler.draws_per_row(index) + uniform

    def expected_class_counts(self, index: ClassIndex) -> np.ndarray:
        """Return the expected draws of each class or label per epoch, float64 [C]."""
        uniform = index.counts * (self.size(index) / index.num_rows)
        return self.fraction * self.sampler.expected_class_counts(index) + (1 - self.fraction) * uniform

    def draw(self, index: ClassIndex, rng: np.random.Generator) -> np.ndarray:
        """Return the rows of one epoch in random order, int [size]."""
        kept = int(self.fraction * self.size(index) + rng.random())
        # The sampler's rows are in random order: the first ones are a random subset.
        rows = self.sampler.draw(index, rng)
        _fill_evenly(rows[kept:], np.arange(index.num_rows, dtype=rows.dtype), rng)
        rng.shuffle(rows)
        return rows


def _count_groups(group_of_row: np.ndarray, num_groups: int) -> np.ndarray:
    """Return the number of rows of each group, int64."""
    # Blocks limit the memory: bincount converts its input to int64.
    blocks = (group_of_row[start : start + BLOCK] for start in range(0, len(group_of_row), BLOCK))
    return sum((np.bincount(block, minlength=num_groups) for block in blocks), np.zeros(num_groups, np.int64))


def _round_systematically(expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return random whole numbers with the given expectations and the same sum (systematic sampling)."""
    whole = np.floor(expected)
    edges = np.concatenate([[0.0], np.cumsum(expected - whole)])
    edges[-1] = round(edges[-1])
    return (whole + np.diff(np.floor(edges + rng.random()))).astype(np.int64)


def _fill_evenly(out: np.ndarray, members: np.ndarray, rng: np.random.Generator) -> None:
    """Fill `out` with members. A member repeats only after all others were drawn."""
    passes, rest = divmod(len(out), len(members))
    whole = passes * len(members)
    out[:whole].reshape(passes, len(members))[:] = members
    out[whole:] = rng.choice(members, rest, replace=False, shuffle=False)
