from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from counterpoise.errors import UserError
from counterpoise.metrics.costs import expected_cost, least_cost, mean_cost, read_costs
from refusals import user_error

LABELS = ["fine", "fraud", "unclear"]
# To refuse what is fine costs 5, to let fraud through 100, to look into anything 2.
FRAUD = "truth,fine,fraud,unclear\nfine,0,5,2\nfraud,100,0,2\nunclear,20,5,0\n"


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "costs.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


class TestLeastCost:
    def test_fraud_by_hand(self):
        # Letting it through costs 100 p, refusing it 5 (1 - p): the same at p = 1/21.
        costs = np.array([[0.0, 5], [100, 0]])
        p = np.array([0.0, 0.04, 0.05, 0.4, 1])
        np.testing.assert_allclose(
            expected_cost(np.stack([1 - p, p], 1), costs), np.stack([100 * p, 5 * (1 - p)], 1), rtol=1e-14
        )
        np.testing.assert_array_equal(least_cost(np.stack([1 - p, p], 1), costs), [0, 0, 1, 1, 1])

    def test_an_improbable_class_can_have_the_least_cost(self, tmp_path):
        costs = read_costs(written(tmp_path, FRAUD), LABELS)
        np.testing.assert_allclose(expected_cost([[0.7, 0.25, 0.05]], costs), [[26, 3.75, 1.9]])
        assert least_cost([[0.7, 0.25, 0.05]], costs).tolist() == [2]

    @given(
        arrays(np.float64, (7, 4), elements=st.floats(0.001, 1)), arrays(np.float64, (4, 4), elements=st.floats(-9, 9))
    )
    def test_expected_cost_and_decision_match_brute_force(self, shares, costs):
        shares /= shares.sum(1, keepdims=True)
        for p, expected, decided in zip(shares, expected_cost(shares, costs), least_cost(shares, costs), strict=True):
            tried = [sum(p[i] * costs[i, j] for i in range(4)) for j in range(4)]
            np.testing.assert_allclose(expected, tried, atol=1e-12)
            assert tried[decided] == pytest.approx(min(tried), abs=1e-12)

    def test_equal_costs_give_the_most_probable_class(self):
        shares = np.random.default_rng(0).dirichlet(np.ones(6), 500)
        np.testing.assert_array_equal(least_cost(shares, 1 - np.eye(6)), shares.argmax(1))

    def test_a_constant_per_row_does_not_change_the_decision(self):
        rng = np.random.default_rng(0)
        shares, costs = rng.dirichlet(np.ones(4), 200), rng.integers(0, 9, (4, 4)).astype(float)
        np.testing.assert_array_equal(least_cost(shares, costs), least_cost(shares, 3 * costs + [[7], [0], [-2], [1]]))

    def test_ties_go_to_the_most_probable_class_and_then_to_the_first(self):
        assert least_cost([[0.25, 0.5, 0.25], [0.4, 0.2, 0.4]], np.ones((3, 3))).tolist() == [1, 0]

    @pytest.mark.parametrize(
        ("shares", "costs"),
        [
            (np.ones((2, 3)), np.ones((2, 2))),
            (np.ones((2, 3)), np.ones((3, 2))),
            (np.ones(3), np.ones((3, 3))),
            (np.full((1, 2), np.nan), np.ones((2, 2))),
            (np.ones((1, 2)), np.full((2, 2), np.inf)),
        ],
    )
    def test_mismatched_arguments_are_an_error(self, shares, costs):
        with pytest.raises(ValueError, match=r"costs|cost is not finite"):
            least_cost(shares, costs)


class TestTies:
    @pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
    @pytest.mark.parametrize("classes", [2, 3, 40])
    def test_the_most_probable_of_equally_cheap_decisions_is_chosen(self, classes, scale):
        rng = np.random.default_rng(classes)
        shares = rng.dirichlet(np.ones(classes), 500)
        truth_only = np.repeat(rng.random((classes, 1)), classes, axis=1)  # the decision does not matter
        shifted = np.eye(classes) * -1 + truth_only  # a mistake costs 1 more than the right decision
        for costs in (np.zeros((classes, classes)), truth_only, shifted, -truth_only):
            np.testing.assert_array_equal(least_cost(shares, scale * costs), shares.argmax(1))

    @settings(max_examples=60)
    @given(st.integers(0, 2**32 - 1))
    def test_the_order_of_the_classes_does_not_matter(self, seed):
        rng = np.random.default_rng(seed)
        classes = int(rng.integers(2, 8))
        shares, costs = rng.dirichlet(np.ones(classes), 20), rng.integers(0, 3, (classes, classes)).astype(float)
        costs[:, rng.integers(classes)] = costs[:, 0]  # two decisions cost the same, whatever is true
        order = rng.permutation(classes)
        moved = least_cost(shares[:, order], costs[np.ix_(order, order)])
        np.testing.assert_array_equal(order[moved], least_cost(shares, costs))

    def test_a_large_cost_of_one_decision_hides_no_difference_between_the_others(self):
        costs = np.array([[0.0, 1e-3, 1e12], [1e-3, 0, 1e12], [0, 1e-3, 1e12]])
        assert least_cost(np.array([[0.3, 0.4, 0.3], [0.3, 0.6, 0.1]]), costs).tolist() == [0, 1]


class TestMeanCost:
    def test_a_small_example_worked_by_hand(self):
        costs = np.array([[0, 5], [100, -1]])
        truth, decided = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
        assert mean_cost(truth, decided, costs) == (0 + 5 + 100 - 1) / 4
        assert mean_cost(truth, truth, costs) == -0.5

    def test_least_cost_decisions_are_cheapest_under_true_probabilities(self):
        rng = np.random.default_rng(0)
        shares = rng.dirichlet([3, 1, 0.3], 20_000)
        truth = (shares.cumsum(1) < rng.random((20_000, 1))).sum(1)
        costs = np.array([[0, 1, 1], [4, 0, 1], [50, 20, 0.0]])
        cheapest = least_cost(shares, costs)
        assert mean_cost(truth, cheapest, costs) < mean_cost(truth, shares.argmax(1), costs) / 2
        expected = expected_cost(shares, costs)[np.arange(20_000), cheapest].mean()
        assert mean_cost(truth, cheapest, costs) == pytest.approx(expected, rel=0.05)

    def test_empty_and_mismatched_arguments_are_errors(self):
        for truth, decided in (([], []), ([0], [0, 1]), ([[0]], [[0]])):
            with pytest.raises(ValueError, match="do not fit"):
                mean_cost(np.array(truth, int), np.array(decided, int), np.eye(2))


class TestFile:
    def test_rows_are_the_truth_and_columns_the_decision(self, tmp_path):
        costs = read_costs(written(tmp_path, FRAUD), LABELS)
        np.testing.assert_array_equal(costs, [[0, 5, 2], [100, 0, 2], [20, 5, 0]])

    def test_classes_may_be_in_any_order(self, tmp_path):
        shuffled = "\ufeff, unclear ,fraud,fine\r\nfraud,2,0,1e2\r\n\r\nunclear,0,5,20\r\nfine,2, 5,-0\r\n"
        costs = read_costs(written(tmp_path, shuffled), LABELS)
        np.testing.assert_array_equal(costs, [[0, 5, 2], [100, 0, 2], [20, 5, 0]])

    def test_a_name_with_a_comma_is_quoted(self, tmp_path):
        path = written(tmp_path, ',"a, b",ü\n"a, b",0,1\nü,3,0\n')
        np.testing.assert_array_equal(read_costs(path, ["ü", "a, b"]), [[0, 3], [1, 0]])

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("", "empty"),
            ("\n\n", "empty"),
            (",fine,fraud,unclear\nfine,0,1,1\n", "no row for 'fraud' and 1 more"),
            (
                FRAUD.replace("truth,fine,", "truth,fin,"),
                "no column for 'fine'; a column for 'fin'",
            ),
            (FRAUD.replace("truth,fine,", "truth,fin,"), "Did you mean 'fine'?"),
            (FRAUD + "other,1,1,1\n", "a row for 'other', which is not a class"),
            (FRAUD + "fine,1,1,1\n", "more than one row for 'fine'"),
            (FRAUD.replace("100,0,2", "100,0"), "row 'fraud' has 3 cells"),
            (FRAUD.replace("100", "much"), "the cost of 'fraud' decided as 'fine' is 'much'"),
            (FRAUD.replace("100", "inf"), "is 'inf'"),
            (FRAUD.replace("100", "nan"), "is 'nan'"),
            (FRAUD.replace("100", ""), "is ''"),
            (b"\xff\xfe\x00", "not CSV"),
        ],
    )
    def test_an_invalid_file_is_a_one_line_error(self, tmp_path, text, line):
        path = written(tmp_path, text)
        error = user_error(read_costs, path, LABELS)
        assert error.startswith(f"costs={path}: ")
        assert line in error

    def test_a_missing_file_and_a_folder_are_one_line_errors(self, tmp_path):
        with pytest.raises(UserError, match="does not exist"):
            read_costs(tmp_path / "none.csv", LABELS)
        with pytest.raises(UserError, match="cannot be read"):
            read_costs(tmp_path, LABELS)
