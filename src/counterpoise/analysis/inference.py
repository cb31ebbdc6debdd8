"""Confidence intervals and tests for scores of groups of runs, with seeds and test texts as sources of variance.

A claim about methods generalises over new trainings and new texts. The unit of replication is then the run (the seed),
and the variance of a mean over S runs is

    V = s^2 / S + A,

where s^2 is the variance between runs and A the variance between texts that all runs of the group share. A is estimated
by the jackknife covariance between different runs, which leaves out the noise that s^2 already holds. For a difference
of two groups the shared variance of texts that both groups find hard cancels.

Two or three runs estimate s^2 poorly. The larger of a group's own estimate and the estimate pooled over all groups is
used, with the pooled degrees of freedom: pooling gives power, and the maximum protects against claims about groups that
are less stable than the others. A group of one run permits claims about this trained model only: V is then the variance
over texts.

A class whose few test texts are all decided alike has no jackknife variance. Therefore no p-value is below the least
one of a paired permutation test, 2^(1 - m) for m texts on which two groups differ, and intervals contain 0 accordingly.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """An estimated score or difference, with the two components of its variance.

    Args:
        value: The estimate.
        seed_variance: Variance of the estimate over trainings; 0 if it makes no claim about methods.
        seed_df: Degrees of freedom of `seed_variance`.
        text_variance: Variance of the estimate over samples of test texts.
        text_df: Degrees of freedom of `text_variance`.
        about_methods: Whether the estimate covers new trainings, not only the given models.
        differing: For a difference, the number of test texts on which the groups differ. None: many.
    """

    value: float
    seed_variance: float
    seed_df: float
    text_variance: float
    text_df: float
    about_methods: bool
    differing: int | None = None

    @property
    def standard_error(self) -> float:
        """The square root of the total variance."""
        return float(np.sqrt(self.seed_variance + self.text_variance))

    @property
    def df(self) -> float:
        """Degrees of freedom of the total variance (Satterthwaite, 1946)."""
        parts = self.seed_variance**2 / self.seed_df + self.text_variance**2 / self.text_df
        return (self.seed_variance + self.text_variance) ** 2 / parts if parts > 0 else np.inf

    @property
    def p(self) -> float:
        """Two-sided p-value of the hypothesis that the true value is 0."""
        if self.value == 0:
            return 1.0
        if self.standard_error == 0:  # every text and every run agree: there is no variance to test against
            return np.nan
        return max(float(2 * stats.t.sf(abs(self.value) / self.standard_error, self.df)), self.least_p)

    @property
    def least_p(self) -> float:
        """The least p-value of a paired permutation test on the texts that differ; 0 for many texts."""
        return 0.0 if self.differing is None else min(1.0, 2.0 ** (1 - self.differing))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the bounds of the confidence interval."""
        half = float(stats.t.ppf((1 + level) / 2, self.df)) * self.standard_error
        if self.least_p >= 1 - level:  # the interval excludes 0 only if the p-value is below 1 - level
            half = max(half, abs(self.value))
        return self.value - half, self.value + half

    def with_seeds(self, seed_variance: float, seed_df: float) -> "Estimate":
        """Return the estimate with another variance over trainings."""
        return replace(self, seed_variance=seed_variance, seed_df=seed_df)

    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """Return the smallest true value that a test at level alpha finds with this power."""
        return float(stats.t.ppf(1 - alpha / 2, self.df) + stats.t.ppf(power, self.df)) * self.standard_error


class MetricEstimates:
    """Estimates of one metric for G groups of K runs in total.

    Args:
        values: The metric of each run on all N texts, [K].
        deviations: Jackknife deviations of the runs, [K, N].
        runs: Indices of each group's runs.
        paired: Pairs (a, b) of groups whose runs belong together one by one, for example because both start from the
            same checkpoints. The variance between runs of their difference is that of the paired differences.
    """

    def __init__(
        self,
        values: np.ndarray,
        deviations: np.ndarray,
        runs: Sequence[np.ndarray],
        paired: frozenset[tuple[int, int]] = frozenset(),
    ) -> None:
        self.paired = paired
        self.values, self.deviations, self.runs = np.asarray(values, float), deviations, runs
        self.sizes = np.array([len(members) for members in runs])
        self.means = np.array([self.values[members].mean() for members in runs])
        self._group_deviations = np.stack([deviations[members].mean(axis=0) for members in runs])
        self._text_variances = (self._group_deviations**2).sum(axis=1)
        own = (deviations**2).sum(axis=1)
        # Covariance over texts of two different runs of a group; the variance of its only run for a group of one.
        self._shared = np.array(
            [_between_runs(total, own[members]) for total, members in zip(self._text_variances, runs, strict=True)]
        )
        self._seed_variances, self.seed_df = _pooled_maximum(
            [
                max(self.values[members].var(ddof=1), own[members].mean() - shared) if len(members) > 1 else np.nan
                for members, shared in zip(runs, self._shared, strict=True)
            ],
            self.sizes - 1,
        )

    def seed_variance(self, group: int, seeds: int) -> float:
        """Return the variance over trainings of the mean of this number of runs of a group."""
        return float(self._seed_variances[group] / seeds)

    def mean(self, group: int) -> Estimate:
        """Return the mean over a group's runs."""
        spread = self._group_deviations[group]
        if self.sizes[group] == 1:
            return Estimate(self.means[group], 0.0, 1.0, self._text_variances[group], kurtosis_df(spread), False)
        shared = max(self._shared[group], 0.0)
        seeds = self.seed_variance(group, self.sizes[group])
        return Estimate(self.means[group], seeds, self.seed_df, shared, kurtosis_df(spread), True)

    def difference(self, a: int, b: int) -> Estimate:
        """Return the difference of the means of groups a and b."""
        value = self.means[a] - self.means[b]
        spread = self._group_deviations[a] - self._group_deviations[b]
        total, text_df = float(spread @ spread), kurtosis_df(spread)
        if min(self.sizes[a], self.sizes[b]) == 1:
            return Estimate(value, 0.0, 1.0, total, text_df, False)
        if (a, b) in self.paired or (b, a) in self.paired:
            differences = self.values[self.runs[a]] - self.values[self.runs[b]]
            pairs = self.deviations[self.runs[a]] - self.deviations[self.runs[b]]
            own, size = (pairs**2).sum(axis=1), len(differences)
            shared = _between_runs(total, own)
            seeds = max(differences.var(ddof=1), own.mean() - shared) / size
            return Estimate(value, seeds, size - 1, max(shared, 0.0), text_df, True)
        covariance = float(self._group_deviations[a] @ self._group_deviations[b])
        shared = max(self._shared[a] + self._shared[b] - 2 * covariance, 0.0)
        seeds = self.seed_variance(a, self.sizes[a]) + self.seed_variance(b, self.sizes[b])
        return Estimate(value, seeds, self.seed_df, shared, text_df, True)


def kurtosis_df(deviations: np.ndarray) -> float:
    """Return the degrees of freedom of the variance estimate sum_t d_t^2, at least 1.

    The relative variance of a variance estimate from N values of kurtosis k is (k - 1) / N, and of one with f degrees
    of freedom 2 / f. A few texts of rare classes that dominate a macro average leave few degrees of freedom.
    """
    squares = deviations**2
    total = squares.sum()
    if not total > 0:
        return 1.0
    return max(1.0, 2 / max(float((squares**2).sum() / total**2) - 1 / len(deviations), 1e-12))


def _between_runs(total: float, own: np.ndarray) -> float:
    """Return the mean covariance between different runs.

    Args:
        total: Variance of the mean of S runs.
        own: Variance of each run, [S].
    """
    size = len(own)
    return float(total) if size == 1 else float((size**2 * total - own.sum()) / (size * (size - 1)))


def _pooled_maximum(variances: Sequence[float], df: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the larger of each variance and the pooled variance, and the pooled degrees of freedom."""
    known = np.asarray(variances)
    if not df.sum():
        return known, 1.0
    return np.maximum(known, np.nansum(known * df) / df.sum()), float(df.sum())
