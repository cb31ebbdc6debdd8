"""Samplers: which rows an epoch draws. Class first, then member; no Python work per row.

`torch.multinomial`, hence `WeightedRandomSampler`, draws rows from one long vector of weights: it refuses more
than 2^24 rows and loses accuracy before that. Drawing the class first has no such limit.
"""

from dataclasses import dataclass

import numpy as np

from counterpoise.errors import UserError

EPOCH_SIZES = ("data", "smallest", "median", "largest")


@dataclass(frozen=True)
class ClassIndex:
    """The rows of each class: `rows[starts[c]:starts[c + 1]]` are the rows of class c."""

    rows: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, classes: np.ndarray, num_classes: int) -> "ClassIndex":
        """Returns the index of the class numbers `classes` (int [N], values in [0, num_classes))."""
        # A narrow type lets numpy's stable sort run as a radix sort, in linear time.
        narrow = classes.astype(np.uint16 if num_classes <= 2**16 else np.int64)
        counts = np.bincount(classes, minlength=num_classes)
        return cls(np.argsort(narrow, kind="stable"), np.concatenate([[0], np.cumsum(counts)]))

    @property
    def counts(self) -> np.ndarray:
        """n_c, int64 [C]."""
        return np.diff(self.starts)

    def members(self, c: int | np.integer) -> np.ndarray:
        """Returns the rows of class `c`, int64 [n_c]."""
        return self.rows[self.starts[c] : self.starts[c + 1]]


@dataclass(frozen=True)
class PowerSampler:
    """Draws class c with probability q_c ~ n_c^(1 - alpha), then one of its members.

    alpha 0 draws the data as it is, 1/2 by the square root of the counts (Mahajan et al., ECCV 2018), 1 every
    class equally often (the class-balanced sampler of Kang et al., ICLR 2020).

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

    def size(self, counts: np.ndarray) -> int:
        """Returns the number of rows drawn in an epoch."""
        if isinstance(self.epoch_size, int):
            return self.epoch_size
        present = counts[counts > 0]
        per_class = {
            "data": present.mean(),
            "smallest": present.min(),
            "median": np.median(present),
            "largest": present.max(),
        }
        return round(len(present) * float(per_class[self.epoch_size]))

    def draw(self, index: ClassIndex, rng: np.random.Generator) -> np.ndarray:
        """Returns the rows of one epoch in random order, int64 [size]."""
        counts = index.counts
        quotas = _round_at_random(self.size(counts) * self.probabilities(counts), rng)
        rows = np.concatenate([_take(index.members(c), int(quotas[c]), rng) for c in np.flatnonzero(quotas)])
        rng.shuffle(rows)
        return rows


def _round_at_random(expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns whole numbers with the given expectations and their exact sum (systematic sampling)."""
    edges = np.concatenate([[0.0], np.cumsum(expected)])
    edges[-1] = round(edges[-1])
    return np.diff(np.floor(edges + rng.random()).astype(np.int64))


def _take(members: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    passes, rest = divmod(k, len(members))
    some = rng.choice(members, rest, replace=False, shuffle=False)
    return np.concatenate([np.tile(members, passes), some])
