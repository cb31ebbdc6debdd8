"""Adjustment of p-values and intervals for several comparisons."""

import numpy as np
import pytest

from counterpoise.analysis.inference import Estimate
from counterpoise.analysis.significance import ALPHA, adjusted, holm, significant


def estimate(z: float) -> Estimate:
    """Return an estimate of this many standard errors, with a variance that is known well."""
    return Estimate(z, 0.5, 1e6, 0.5, 1e6, True)


def test_holm_equals_r():
    # The least of four times 4, the next times 3; never below the one before.
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.9, 0.4])), [0.9, 0.8])
    assert holm(np.array([0.6, 0.7])).tolist() == [1, 1]
    assert holm(np.array([])).tolist() == []
    # The p-values with which statsmodels tests its multipletests against R's multtest.
    p = [0.838541367553, 0.642193923795, 0.680845947633, 0.967833824309, 0.71626938238]
    p += [0.177096952723, 5.23656777208e-05, 0.0202732688798, 0.00028140506198, 0.0149877310796]
    expected = [1, 1, 1, 1, 1, 1, 10 * p[6], 7 * p[7], 9 * p[8], 8 * p[9]]
    np.testing.assert_allclose(holm(np.array(p)), expected)


def test_holm_ignores_unknown_p_values_and_counts_unlisted_comparisons():
    np.testing.assert_allclose(holm(np.array([0.01, np.nan, 0.03])), [0.02, np.nan, 0.03])
    np.testing.assert_allclose(holm(np.array([0.01, 0.03]), 10), [0.1, 0.27])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("comparisons", [0, 30])
def test_an_interval_excludes_0_exactly_if_its_difference_is_significant(seed, comparisons):
    rng = np.random.default_rng(seed)
    table = adjusted([estimate(z) for z in rng.normal(0, 2.5, rng.integers(1, 25))], comparisons)
    excludes = (table["low"] > 0) | (table["high"] < 0)
    assert excludes.tolist() == significant(table).tolist()
    np.testing.assert_allclose(table["p_adjusted"], holm(table["p"].to_numpy(), comparisons))


def test_intervals_of_a_family_are_wider_than_of_one_comparison():
    alone, among = adjusted([estimate(1)]), adjusted([estimate(1)] * 10)
    assert (alone["high"] - alone["low"])[0] == pytest.approx(2 * 1.96, abs=0.01)
    assert (among["high"] - among["low"])[0] == pytest.approx(2 * 2.807, abs=0.01)  # normal quantile of 1 - 0.05 / 20


def test_a_difference_without_variance_is_not_significant():
    table = adjusted([Estimate(0.5, 0.0, 1.0, 0.0, 1.0, False), estimate(5)])
    assert significant(table).tolist() == [False, True]
    assert table.loc[0, ["low", "high", "p", "p_adjusted"]].isna().all()
    assert table["p_adjusted"][1] < ALPHA


def test_an_empty_family_gives_an_empty_table():
    assert adjusted([]).columns.tolist() == ["difference", "low", "high", "p", "p_adjusted", "methods"]
