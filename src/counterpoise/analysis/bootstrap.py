"""Bootstrap over test texts and seeds: confidence intervals for groups of runs and for their differences.

The bootstrap resamples test texts and, for groups of several runs, seeds, so that intervals include the variance of
training. For a group of one seed the interval covers the choice of test texts only. Replicates without any text of a
class exclude that class: for classes with one or two test texts, intervals of macro averages are too narrow.
"""

from collections.abc import Iterator

import numpy as np

from counterpoise.analysis.group_decisions import CountMetric, GroupDecisions, score
from counterpoise.analysis.replicate_batches import batch_sizes

LEVEL = 0.95
"""Confidence level of the intervals."""
MAX_RECALLS = 2**25
"""Recalls [groups, classes, replicates] in memory at a time."""


def bootstrap_scores(
    decisions: GroupDecisions, metrics: list[CountMetric], replicates: int = 2000, seed: int = 0
) -> np.ndarray:
    """Return the mean over seeds of each group's metrics in paired bootstrap replicates.

    All groups use the same resampled texts, so the replicates of a difference are the differences of replicates.

    Args:
        decisions: G groups of runs.
        metrics: M metrics.
        replicates: Number R of replicates.
        seed: Seed of the random generator.

    Returns:
        Float32 [G, M, R].

    References:
        Efron and Tibshirani (1993); Berg-Kirkpatrick et al. (2012).
    """
    batches = [
        [
            np.einsum("smr,sr->mr", score(metrics, true_positives[runs], predicted[runs], support), weights)
            for runs, weights in zip(decisions.runs, seed_weights, strict=True)
        ]
        for text_weights, seed_weights in resample(decisions, replicates, seed)
        for true_positives, predicted, support in [decisions.counts(text_weights)]
    ]
    return np.concatenate([np.stack(batch) for batch in batches], axis=-1)


def confidence_interval(replicates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds [...] of the percentile interval of replicates [..., R]. NaN replicates are ignored."""
    quantile = np.nanquantile if np.isnan(replicates).any() else np.quantile
    low, high = quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1)
    return low, high


def recall_intervals(
    decisions: GroupDecisions, reference: int, replicates: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence interval of each class's recall minus the recall of the reference group.

    The replicates are those of `bootstrap_scores` with the same seed.

    Returns:
        Lower and upper bounds, float [G, C]. NaN for classes that no replicate holds.
    """
    groups, classes = len(decisions.runs), decisions.truth.shape[1]
    bounds = np.full((2, groups, classes), np.nan)
    step = max(1, MAX_RECALLS // (replicates * groups))
    for start in range(0, classes, step):
        block, recalls = decisions.select_classes(slice(start, start + step)), []
        for text_weights, seed_weights in resample(decisions, replicates, seed):
            true_positives, _, support = block.counts(text_weights)
            recall = true_positives / np.where(support > 0, support, np.nan)
            pairs = zip(block.runs, seed_weights, strict=True)
            recalls.append(np.stack([np.einsum("scr,sr->cr", recall[runs], weights) for runs, weights in pairs]))
        values = np.concatenate(recalls, axis=-1)
        known = ~np.isnan(values[0]).all(axis=1)
        for group in range(groups):
            difference = values[group, known] - values[reference, known]
            bounds[:, group, start : start + step][:, known] = confidence_interval(difference)
    return bounds[0], bounds[1]


def resample(
    decisions: GroupDecisions, replicates: int, seed: int = 0
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yield bootstrap weights, a batch of r replicates at a time.

    N of N texts are drawn with replacement, jointly for all runs. Of S seeds S - 1 are drawn with replacement, for each
    group separately: drawing S would underestimate the variance of the mean by a factor (S - 1) / S, which is one half
    for two seeds. If the seeds of a group err on different texts, the two draws count that variance twice and the
    intervals are conservative.

    Yields:
        Weights of the texts, float32 [N, r], and of each group's seeds, float32 [S, r]; seed weights sum to 1.

    References:
        McCarthy and Snowden (1985); Rao and Wu (1988); Owen (2007).
    """
    rng, texts = np.random.default_rng(seed), decisions.truth.shape[0]
    for size in batch_sizes(replicates, texts):
        seeds = [
            _draw_counts(rng, len(runs), len(runs) - 1, size) if len(runs) > 1 else np.ones((1, size), np.float32)
            for runs in decisions.runs
        ]
        yield _draw_counts(rng, texts, texts, size), [counts / counts.sum(axis=0) for counts in seeds]


def _draw_counts(rng: np.random.Generator, items: int, draws: int, size: int) -> np.ndarray:
    """Return how often each item is drawn with replacement in `size` replicates, float32 [items, size]."""
    cells = rng.integers(items, size=(draws, size)) * size + np.arange(size)
    return np.bincount(cells.ravel(), minlength=items * size).reshape(items, size).astype(np.float32)
