"""Significance of differences between groups: adjusted p-values and the rule that combines them with intervals."""

import numpy as np
import pandas as pd

ALPHA = 0.05
"""Significance level for adjusted p-values."""


def holm(p: np.ndarray) -> np.ndarray:
    """Adjust p-values [P] for P comparisons with the step-down Bonferroni correction (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(order), 0, -1)))
    return adjusted


def significant(differences: pd.DataFrame) -> np.ndarray:
    """Return which differences are significant, bool [rows].

    A difference is significant if its adjusted p-value is below `ALPHA` and its confidence interval excludes 0. The
    permutation test takes the trained models as given; the bootstrap interval also covers other texts and seeds.

    Args:
        differences: Table with columns low, high and p_adjusted, such as `Comparison.pairs` or `Comparison.effects`.
    """
    excludes_zero = (differences["low"] > 0) | (differences["high"] < 0)
    return ((differences["p_adjusted"] < ALPHA) & excludes_zero).to_numpy(bool)
