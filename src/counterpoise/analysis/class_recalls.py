"""Recall of each class: differences between groups of runs, with their confidence intervals."""

from dataclasses import replace

import numpy as np

from counterpoise.analysis.group_decisions import GroupDecisions
from counterpoise.analysis.inference import MetricEstimates

MIN_TEST_TEXTS = 5
"""Classes with fewer test texts get no interval for their recall: too few texts to estimate its variance."""


def recall_intervals(
    decisions: GroupDecisions,
    reference: int,
    paired: frozenset[tuple[int, int]] = frozenset(),
    level: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence interval of each class's recall minus the recall of the reference group.

    The recall of a class is the accuracy on its n texts, whose variance over texts has n - 1 degrees of freedom. The
    intervals are not adjusted for the number of classes.

    Args:
        decisions: G groups of runs.
        reference: The reference group.
        paired: Pairs of groups whose runs belong together one by one.
        level: Confidence level of each interval.

    Returns:
        Lower and upper bounds, float [G, C]. NaN for the reference and for classes with fewer than `MIN_TEST_TEXTS`
        test texts.
    """
    truth = decisions.truth.tocsc()
    texts, starts = truth.indices, truth.indptr
    classes = np.repeat(np.arange(truth.shape[1]), np.diff(starts))
    hits = np.array([np.asarray(run[texts, classes], float).ravel() for runs in decisions.decided for run in runs])
    bounds = np.full((2, len(decisions.decided), truth.shape[1]), np.nan)
    for c in np.flatnonzero(np.diff(starts) >= MIN_TEST_TEXTS):
        of_class = hits[:, starts[c] : starts[c + 1]]
        recalls, size = of_class.mean(axis=1), of_class.shape[1]
        # Jackknife deviations of a mean.
        spread = (of_class - recalls[:, None]) / np.sqrt(size * (size - 1))
        estimates = MetricEstimates(recalls, spread, decisions.runs, paired)
        for group in range(len(decisions.decided)):
            if group != reference:
                estimate = estimates.difference(group, reference)
                bounds[:, group, c] = replace(estimate, text_df=size - 1).interval(level)
    return bounds[0], bounds[1]
