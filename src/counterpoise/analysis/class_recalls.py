"""Recall of each class: differences between groups of runs, with their confidence intervals."""

import numpy as np
from scipy import stats

from counterpoise.analysis.group_decisions import GroupDecisions

MIN_TEST_TEXTS = 5
"""Classes with fewer test texts get no interval for their recall: too few texts to estimate its variance."""


def recall_intervals(decisions: GroupDecisions, reference: int, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence interval of each class's recall minus the recall of the reference group.

    The variance is that of `inference.MetricEstimates`, for the recall of one class at a time. The intervals are not
    adjusted for the number of classes.

    Args:
        decisions: G groups of runs.
        reference: The reference group.
        level: Confidence level of each interval.

    Returns:
        Lower and upper bounds, float [G, C]. NaN for the reference and for classes with fewer than `MIN_TEST_TEXTS`
        test texts.
    """
    entries = decisions.truth.tocoo()
    texts, classes = entries.row, entries.col
    number = decisions.truth.shape[1]
    support = np.bincount(classes, minlength=number).astype(float)
    pairs = np.maximum(support * (support - 1), 1)
    known = support >= MIN_TEST_TEXTS

    def within(values: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
        """Return the variance (or covariance) over texts of the mean within each class, [C]."""
        others = values if others is None else others
        products, ones, twos = (np.bincount(classes, each, number) for each in (values * others, values, others))
        return np.asarray((products - ones * twos / np.maximum(support, 1)) / pairs)

    means: list[np.ndarray] = []
    shared: list[np.ndarray] = []
    between: list[np.ndarray] = []
    for runs in decisions.decided:
        hits = np.array([np.asarray(run[texts, classes], float).ravel() for run in runs])
        size, mean = len(hits), hits.mean(axis=0)
        total, own = within(mean), np.array([within(each) for each in hits])
        means.append(mean)
        if size == 1:
            shared.append(total)
            between.append(np.full(number, np.nan))
            continue
        shared.append((size**2 * total - own.sum(axis=0)) / (size * (size - 1)))
        with np.errstate(all="ignore"):
            recalls = np.array([np.bincount(classes, each, number) for each in hits]) / support
        between.append(np.maximum(recalls.var(axis=0, ddof=1), own.mean(axis=0) - shared[-1]))

    sizes = np.array([len(group) for group in decisions.decided])
    df = sizes - 1
    seed_df = max(float(df.sum()), 1.0)
    pooled = np.nansum(np.array(between) * df[:, None], axis=0) / seed_df
    seed_variances = [np.maximum(each, pooled) / size for each, size in zip(between, sizes, strict=True)]
    bounds = np.full((2, len(sizes), number), np.nan)
    for group in range(len(sizes)):
        if group == reference:
            continue
        difference = means[group] - means[reference]
        if min(sizes[group], sizes[reference]) == 1:
            seeds, over_texts = np.zeros(number), within(difference)
        else:
            seeds = seed_variances[group] + seed_variances[reference]
            covariance = within(means[group], means[reference])
            over_texts = np.maximum(shared[group] + shared[reference] - 2 * covariance, 0)
        with np.errstate(all="ignore"):
            recall = np.bincount(classes, difference, number) / support
            parts = seeds**2 / seed_df + over_texts**2 / (support - 1)
            satterthwaite = np.where(parts > 0, (seeds + over_texts) ** 2 / parts, 1)
            half = stats.t.ppf((1 + level) / 2, satterthwaite) * np.sqrt(seeds + over_texts)
        bounds[:, group, known] = recall[known] - half[known], recall[known] + half[known]
    return bounds[0], bounds[1]
