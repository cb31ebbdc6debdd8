from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from counterpoise.balance import EffectiveNumber, InverseFrequency, ManualWeights, PowerSampler
from counterpoise.balance.weights import (
    cap,
    cap_ratios,
    effective_sample_size,
    normalise,
    normalise_label_weights,
    positive_weight_ratios,
)
from counterpoise.errors import UserError
from refusals import user_error

LABELS = ["fine", "fraud", "spam"]
COUNTS = np.array([60, 3, 37])

some_counts = st.lists(st.integers(1, 10**6), min_size=2, max_size=12).map(np.array)
few_counts = st.lists(st.integers(1, 50), min_size=2, max_size=8).map(np.array)


def natural(counts: np.ndarray) -> np.ndarray:
    return counts / counts.sum()


def cui(beta: float, n: int) -> float:
    """(1 - beta) / (1 - beta^n) to 60 digits, for the very double that beta is."""
    with localcontext() as context:
        context.prec = 60
        exact = Decimal(beta)
        return float((1 - exact) / (1 - exact**n))


def refused(scheme: ManualWeights) -> str:
    return user_error(scheme, LABELS, COUNTS)


@settings(deadline=None)
@given(few_counts)
def test_inverse_counts_are_the_balanced_weights_of_scikit_learn(counts):
    classes = np.repeat(np.arange(len(counts)), counts)
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=classes)
    weights = normalise(InverseFrequency(1.0)([], counts), natural(counts))
    np.testing.assert_allclose(weights, expected, rtol=1e-12)


@pytest.mark.parametrize(("beta", "expected"), [(0, [1, 1, 1]), (0.5, [1, 1 / 2, 1 / 3]), (1, [1, 1 / 4, 1 / 9])])
def test_inverse_frequency_weights_of_a_small_example_worked_by_hand(beta, expected):
    np.testing.assert_allclose(InverseFrequency(beta)([], np.array([1, 4, 9])), expected, rtol=1e-15)


@pytest.mark.parametrize("beta", [0.9, 0.99, 0.999, 0.9999])
def test_effective_number_is_the_formula_of_cui_et_al_in_double_precision(beta):
    counts = np.unique(np.geomspace(1, 10**6, 60).round().astype(int))
    expected = [cui(beta, int(n)) for n in counts]
    np.testing.assert_allclose(EffectiveNumber(beta)([], counts), expected, rtol=1e-14)


@settings(deadline=None)
@given(st.sampled_from([0.9, 0.99, 0.999, 0.9999]), st.integers(1, 10**6))
def test_effective_number_weights_are_finite_at_any_count(beta, n):
    assert EffectiveNumber(beta)([], np.array([n]))[0] == pytest.approx(cui(beta, n), rel=1e-14)


def test_effective_numbers_of_a_small_example_worked_by_hand():
    # beta 0.9: E_1 = 1, E_2 = 1.9, E_3 = 2.71, E_infinity = 10; beta 0.99: E_2 = 1.99.
    weights = EffectiveNumber(0.9)([], np.array([1, 2, 3, 10**6]))
    np.testing.assert_allclose(weights, [1, 1 / 1.9, 1 / 2.71, 0.1], rtol=1e-14)
    assert EffectiveNumber(0.99)([], np.array([2]))[0] == pytest.approx(1 / 1.99, rel=1e-14)


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1, 1.5])
def test_effective_number_needs_a_beta_between_0_and_1(beta):
    with pytest.raises(UserError, match="above 0 and below 1"):
        EffectiveNumber(beta)


def test_a_negative_beta_is_refused():
    with pytest.raises(UserError, match="beta=-1"):
        InverseFrequency(-1)


@settings(deadline=None)
@given(some_counts, st.sampled_from([1.0, 1.5, 3.0, 10.0, 1000.0]))
def test_the_cap_limits_the_ratio_exactly_and_keeps_small_weights(counts, ratio):
    weights = InverseFrequency(1.0)([], counts)
    capped = cap(weights, ratio)
    smallest = weights.min()
    assert capped.max() == min(weights.max(), ratio * smallest)
    np.testing.assert_array_equal(capped[weights <= ratio * smallest], weights[weights <= ratio * smallest])


def test_the_cap_is_measured_from_the_smallest_positive_weight():
    np.testing.assert_array_equal(cap(np.array([0.0, 1.0, 50.0]), 10), [0, 1, 10])


def test_no_cap_changes_nothing():
    weights = np.array([1.0, 1e6])
    assert cap(weights, None) is weights


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_ratios_are_powers_of_negatives_over_positives(beta):
    counts = np.array([1, 25, 50, 99])
    expected = [99**beta, 3**beta, 1, (1 / 99) ** beta]
    np.testing.assert_allclose(positive_weight_ratios(InverseFrequency(beta), [], counts, 100), expected, rtol=1e-12)


def test_the_ratio_of_a_label_of_no_or_every_row_is_finite():
    np.testing.assert_allclose(
        positive_weight_ratios(InverseFrequency(1.0), [], np.array([0, 1, 100]), 100), [100, 99, 1 / 100]
    )


def test_effective_number_ratios_compare_positives_and_negatives():
    ratios = positive_weight_ratios(EffectiveNumber(0.99), [], np.array([3, 40]), 100)
    np.testing.assert_allclose(ratios, [cui(0.99, 3) / cui(0.99, 97), cui(0.99, 40) / cui(0.99, 60)], rtol=1e-13)


def test_manual_weights_are_the_ratios():
    np.testing.assert_array_equal(positive_weight_ratios(ManualWeights([5, 1, 0.5]), LABELS, COUNTS, 200), [5, 1, 0.5])


def test_a_ratio_of_0_is_refused():
    with pytest.raises(UserError, match="'fraud' is 0") as error:
        positive_weight_ratios(ManualWeights([5, 0, 0.5]), LABELS, COUNTS, 200)
    assert "\n" not in str(error.value)


def test_the_cap_of_ratios_limits_both_sides():
    np.testing.assert_array_equal(cap_ratios(np.array([0.01, 0.1, 3, 10, 5000]), 10), [0.1, 0.1, 3, 10, 10])
    np.testing.assert_array_equal(cap_ratios(np.array([0.01, 5000]), None), [0.01, 5000])


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=2, max_size=60).filter(lambda column: 0 < sum(column) < len(column)))
def test_balanced_ratios_give_the_balanced_weights_of_scikit_learn(column):
    positives = np.array(column)
    expected = compute_class_weight("balanced", classes=np.array([False, True]), y=positives)
    ratio = positive_weight_ratios(InverseFrequency(1.0), [], np.array([positives.sum()]), len(positives))
    positive, negative = normalise_label_weights(ratio, np.array([positives.mean()]), np.array([1 - positives.mean()]))
    np.testing.assert_allclose([negative[0], positive[0]], expected, rtol=1e-12)


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(1e-6, 1e6))
def test_normalised_label_weights_have_mean_1_over_drawn_texts(share, ratio):
    positive, negative = normalise_label_weights(np.array([ratio]), np.array([share]), np.array([1 - share]))
    assert share * positive[0] + (1 - share) * negative[0] == pytest.approx(1, rel=1e-12)
    assert positive[0] / negative[0] == pytest.approx(ratio, rel=1e-12)


@settings(deadline=None)
@given(some_counts, st.floats(0, 2), st.floats(0, 2), st.sampled_from([None, 1.0, 2.0, 100.0]))
def test_normalised_weights_have_mean_1_also_after_capping(counts, alpha, beta, ratio):
    probabilities = PowerSampler(alpha).probabilities(counts)
    weights = normalise(cap(InverseFrequency(beta)([], counts), ratio), probabilities)
    assert probabilities @ weights == pytest.approx(1, rel=1e-12)


def test_the_effective_sample_size_of_a_small_example_worked_by_hand():
    # Counts 3 and 1, balanced: weights 2/3 and 2, E[w] = 1, E[w^2] = 3/4 * 4/9 + 1/4 * 4 = 4/3.
    probabilities = np.array([0.75, 0.25])
    assert effective_sample_size(np.array([2 / 3, 2]), probabilities) == pytest.approx(3 / 4)
    assert effective_sample_size(np.array([20 / 3, 20]), probabilities) == pytest.approx(3 / 4)
    assert effective_sample_size(np.array([5.0, 5.0]), probabilities) == pytest.approx(1)
    assert effective_sample_size(np.array([0.0, 1.0]), np.array([0.99, 0.01])) == pytest.approx(0.01)


@pytest.mark.parametrize("given_by", [{"spam": 3, "fine": 1, "fraud": 0}, [1, 0, 3], (1.0, 0.0, 3.0)])
def test_manual_weights_are_a_mapping_or_a_list_in_the_order_of_the_classes(given_by):
    np.testing.assert_array_equal(ManualWeights(given_by)(LABELS, COUNTS), [1, 0, 3])


def test_a_mapping_may_name_whole_number_classes_as_numbers():
    np.testing.assert_array_equal(ManualWeights({2: 5, 1: 3})(["1", "2"], np.array([4, 4])), [3, 5])


def test_a_class_without_a_manual_weight_is_named():
    assert "'spam'" in refused(ManualWeights({"fine": 1, "fraud": 2}))


def test_many_classes_without_a_manual_weight_are_counted():
    labels = [f"class {i}" for i in range(9)]
    with pytest.raises(UserError, match=r"'class 5' and 3 more"):
        ManualWeights({"class 0": 1})(labels, np.ones(9, int))


def test_a_manual_weight_for_an_unknown_class_suggests_the_nearest():
    message = refused(ManualWeights({"fine": 1, "frued": 2, "spam": 1}))
    assert "'frued'" in message
    assert "Did you mean 'fraud'?" in message


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), None])
def test_a_manual_weight_that_is_negative_or_not_finite_names_its_class(weight):
    assert "'fraud'" in refused(ManualWeights({"fine": 1, "fraud": weight, "spam": 1}))
    assert "'fraud'" in refused(ManualWeights([1, weight, 1]))


def test_a_list_of_the_wrong_length_is_refused():
    assert "2 weights for 3 classes" in refused(ManualWeights([1, 2]))


def test_all_zero_weights_are_refused():
    assert "all weights are 0" in refused(ManualWeights([0, 0, 0]))


@pytest.mark.parametrize("weight", ["heavy", [1, 2]])
def test_manual_weights_that_are_not_numbers_are_refused(weight):
    assert "finite number" in refused(ManualWeights([1, weight, 1]))


@pytest.mark.parametrize("by_label", [5, "heavy", None])
def test_manual_weights_that_are_neither_a_mapping_nor_a_list_are_refused(by_label):
    with pytest.raises(UserError, match="by_label"):
        ManualWeights(by_label)(["a", "b"], np.array([3, 1]))
