"""Differences of one run to its linear baseline, with the tests of a comparison of two models."""

from collections.abc import Mapping

import numpy as np
from scipy import sparse

from counterpoise.analysis.comparison_tables import effects, measure
from counterpoise.analysis.group_decisions import CountMetric, GroupDecisions
from counterpoise.analysis.leaderboard import BASELINE
from counterpoise.analysis.significance import ALPHA
from counterpoise.metrics import registry

METRIC = "macro_f1"
"""The metric that is tested by itself. The other metrics are one family of tests."""
COLUMNS = ("difference", "low", "high", "p", "p_adjusted")

Differences = Mapping[str, Mapping[str, float | None]]
"""By metric: the `COLUMNS`. None: unknown."""


def differences(
    truth: sparse.csr_matrix,
    predicted: sparse.csr_matrix,
    baseline: sparse.csr_matrix,
    metrics: Mapping[str, CountMetric],
) -> Differences:
    """Return the differences of a run to the baseline, with intervals and p-values over test texts.

    Args:
        truth: True labels, bool [N, C].
        predicted: Decisions of the run, bool [N, C].
        baseline: Decisions of the baseline, bool [N, C].
        metrics: Metrics to compare, by name.
    """
    decisions = GroupDecisions(truth, [[predicted], [baseline]])
    table = effects(measure(["run", BASELINE], decisions, metrics), METRIC, BASELINE)
    return {
        str(row["metric"]): {column: None if np.isnan(row[column]) else float(row[column]) for column in COLUMNS}
        for row in table.to_dict("records")
    }


def describe(found: Differences) -> str:
    """Return one sentence: what the run adds to the baseline in `METRIC`, and whether that is significant."""
    title, row = registry.title(METRIC), found[METRIC]
    difference, p = row["difference"], row["p_adjusted"]
    if not difference:
        return f"{title[0].upper()}{title[1:]} equals that of the linear baseline."
    change = "higher" if difference > 0 else "lower"
    sentence = f"{title[0].upper()}{title[1:]} is {abs(difference):.3f} {change} than that of the linear baseline"
    if p is None:
        return f"{sentence}; there is no variance to test."
    verdict = "significant" if p < ALPHA else "not significant"
    return (
        f"{sentence}: {verdict} over test texts (95 % interval {row['low']:+.3f} to {row['high']:+.3f}, p = {p:.2g})."
    )
