"""Adjustment of p-values and confidence intervals for several comparisons."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from counterpoise.analysis.inference import Estimate

ALPHA = 0.05
"""Significance level of a family of comparisons."""


def adjusted(estimates: Sequence[Estimate], comparisons: int = 0) -> pd.DataFrame:
    """Adjust the tests and intervals of a family of comparisons (Holm, 1979).

    Intervals use the level of Holm's step at which their hypothesis was decided, so an interval excludes 0 exactly if
    the adjusted p-value is below `ALPHA`. Together they cover all true differences with a probability of about
    1 - `ALPHA`.

    Args:
        estimates: Differences of the family.
        comparisons: Number of comparisons in the family, if more were made than are listed.

    Returns:
        A row per estimate: difference, low, high, p, p_adjusted, methods (whether the estimate makes a claim about
        methods, not only about the given models). Tests and intervals of unknown variance are NaN.
    """
    p = np.array([estimate.p for estimate in estimates], float)
    p_adjusted = holm(p, comparisons)
    comparisons = max(comparisons, int(np.isfinite(p).sum()))
    rank = np.argsort(np.argsort(p, kind="stable"), kind="stable")
    levels = comparisons - np.minimum(rank, (p_adjusted < ALPHA).sum())
    intervals = [
        each.interval(1 - ALPHA / max(level, 1)) if np.isfinite(each.p) else (np.nan, np.nan)
        for each, level in zip(estimates, levels.tolist(), strict=True)
    ]
    low, high = np.array(intervals, float).reshape(-1, 2).T
    return pd.DataFrame(
        {
            "difference": np.array([estimate.value for estimate in estimates], float),
            "low": low,
            "high": high,
            "p": p,
            "p_adjusted": p_adjusted,
            "methods": np.array([estimate.about_methods for estimate in estimates], bool),
        }
    )


def holm(p: np.ndarray, comparisons: int = 0) -> np.ndarray:
    """Adjust p-values [P] for several comparisons with the step-down Bonferroni correction (Holm, 1979).

    Args:
        p: P-values. NaN are ignored.
        comparisons: Number of comparisons, if more were made than there are p-values.
    """
    p = np.asarray(p, float)
    order = np.argsort(p, kind="stable")[: np.isfinite(p).sum()]
    result = np.full(len(p), np.nan)
    factors = max(comparisons, len(order)) - np.arange(len(order))
    result[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors))
    return result


def significant(differences: pd.DataFrame) -> np.ndarray:
    """Return which rows of `Comparison.pairs` or `Comparison.effects` are significant: p_adjusted below `ALPHA`."""
    return (differences["p_adjusted"] < ALPHA).to_numpy(bool)
