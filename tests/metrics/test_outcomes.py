import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from counterpoise.metrics import outcomes
from counterpoise.metrics.outcomes import AdjustedLogits, ScoredOutcomes, order_statistics


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 7), st.data())
def test_order_statistics_match_sorting(values, size, data):
    ranks = np.array(data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=5)))
    blocks = [np.array(values[start : start + size]) for start in range(0, len(values), size)]
    np.testing.assert_array_equal(order_statistics(lambda: iter(blocks), ranks), np.sort(values)[ranks])


def test_order_statistics_distinguish_the_last_bits():
    values = 0.5 + np.arange(100) * 2.0**-53
    order = np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(order_statistics(lambda: iter([values[order]]), np.arange(100)), values)


@pytest.mark.parametrize("cells", [1, 10, 1000])
@pytest.mark.parametrize("dense", [True, False])
def test_blocks_hold_every_text_once_in_order(cells, dense, monkeypatch):
    monkeypatch.setattr(outcomes, "_BLOCK_CELLS", cells)
    rng = np.random.default_rng(0)
    logits, held = rng.normal(size=(13, 4)).astype(np.float32), rng.random((13, 4)) < 0.3
    found = list(ScoredOutcomes.of(logits, held if dense else csr_matrix(held)).blocks())
    np.testing.assert_array_equal(np.concatenate([scores for scores, _ in found]), logits)
    np.testing.assert_array_equal(np.concatenate([truth for _, truth in found]), held)
    assert {scores.dtype for scores, _ in found} == {np.dtype(np.float64)}
    assert max(scores.size for scores, _ in found) <= max(cells, 4)


def test_adjusted_logits_are_shifted_and_then_divided():
    logits = np.array([[3.0, 1.0], [0.0, 2.0]], np.float32)
    made = AdjustedLogits(logits, np.array([1.0, -1.0]), 2.0)
    assert made.shape == (2, 2)
    np.testing.assert_array_equal(made[:], [[1, 1], [-0.5, 1.5]])
    np.testing.assert_array_equal(made[1:], [[-0.5, 1.5]])
    assert ScoredOutcomes.of(made, np.array([0, 1])).finite
    assert not ScoredOutcomes.of(AdjustedLogits(np.array([[np.nan]]), np.zeros(1)), np.array([0])).finite
