from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix
from scipy.special import expit, logit, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from counterpoise.metrics import outcomes as outcomes_module
from counterpoise.metrics import probabilities as adjust
from counterpoise.metrics.outcomes import AdjustedLogits
from counterpoise.metrics.probabilities import (
    TEMPERATURES,
    adaptive_calibration_error,
    brier_score,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    risk_coverage,
)


def expected_calibration_error(*arguments) -> float:
    return reliability(*arguments).error


def area_under_risk_coverage(*arguments) -> float:
    return risk_coverage(*arguments).area


MEASURES = [
    negative_log_likelihood,
    brier_score,
    expected_calibration_error,
    adaptive_calibration_error,
    area_under_risk_coverage,
    fit_temperature,
]


def sample(n: int = 4000, classes: int = 5, seed: int = 0, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and classes drawn from their softmax; the logits are then multiplied by the temperature."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, classes)) - np.linspace(0, 3, classes)
    targets = (softmax(logits, axis=1).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return temperature * logits, np.minimum(targets, classes - 1)


def label_sample(n: int = 1000, seed: int = 0, temperature: float = 1.0) -> tuple[np.ndarray, csr_matrix]:
    """The same for 4 labels a text."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, 4)) - np.arange(4)
    return temperature * logits, csr_matrix(rng.random((n, 4)) < expit(logits))


class TestTemperature:
    def test_a_small_example_worked_by_hand(self):
        # Three of four are right at logits 4 and 0: T makes their probability 3/4.
        logits, classes = np.array([[4.0, 0]] * 4), np.array([0, 0, 0, 1])
        assert fit_temperature(logits, classes) == pytest.approx(4 / np.log(3), rel=1e-9)
        assert fit_temperature(logits[:, :1], classes[:, None] == 0) == pytest.approx(4 / np.log(3), rel=1e-9)

    @pytest.mark.parametrize("draw", [sample, label_sample])
    @pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
    def test_the_temperature_maximises_the_likelihood(self, draw, temperature):
        logits, targets = draw(temperature=temperature)
        found = fit_temperature(logits, targets)
        searched = minimize_scalar(
            lambda t: negative_log_likelihood(logits / np.exp(t), targets),
            bounds=np.log(TEMPERATURES),
            method="bounded",
        )
        assert np.log(found) == pytest.approx(searched.x, abs=1e-4)
        assert found == pytest.approx(temperature, rel=0.1)
        assert fit_temperature(7 * logits, targets) == pytest.approx(7 * found, rel=1e-9)

    @pytest.mark.parametrize("draw", [sample, label_sample])
    def test_the_temperature_never_lowers_the_likelihood_and_keeps_decisions(self, draw):
        logits, targets = draw(temperature=3)
        scaled = logits / fit_temperature(logits, targets)
        assert negative_log_likelihood(scaled, targets) < negative_log_likelihood(logits, targets)
        assert expected_calibration_error(scaled, targets) < expected_calibration_error(logits, targets) / 2
        np.testing.assert_array_equal(scaled.argmax(1), logits.argmax(1))

    def test_a_constant_on_the_logits_of_a_text_changes_nothing(self):
        logits, classes = sample()
        shifted = logits + np.random.default_rng(1).normal(size=(len(logits), 1)) * 50
        assert fit_temperature(shifted, classes) == pytest.approx(fit_temperature(logits, classes), rel=1e-9)

    def test_perfect_and_random_logits_give_the_temperature_limits(self):
        logits, _ = sample(200)
        assert fit_temperature(logits, logits.argmax(1)) == TEMPERATURES[0]
        assert fit_temperature(logits, logits.argmin(1)) == TEMPERATURES[1]
        assert fit_temperature(logits, logits > 0) == TEMPERATURES[0]
        assert fit_temperature(logits, logits < 0) == TEMPERATURES[1]
        assert fit_temperature(np.full((9, 3), 2.0), np.zeros(9, int)) == 1
        assert fit_temperature(np.zeros((9, 3)), np.zeros((9, 3), bool)) == 1

    def test_nonfinite_logits_are_an_error(self):
        for bad in (np.nan, np.inf):
            with pytest.raises(ValueError, match="finite"):
                fit_temperature(np.array([[0, bad]]), np.array([0]))


class TestScores:
    def test_a_small_example_worked_by_hand(self):
        logits = np.log([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3]])
        classes = np.array([0, 2])
        assert negative_log_likelihood(logits, classes) == pytest.approx(-np.log(0.7 * 0.3) / 2)
        assert brier_score(logits, classes) == pytest.approx((0.09 + 0.04 + 0.01 + 0.04 + 0.25 + 0.49) / 2)
        pairs, held = logit([[0.9, 0.2]]), np.array([[True, True]])
        assert negative_log_likelihood(pairs, held) == pytest.approx(-np.log(0.9 * 0.2) / 2)
        assert brier_score(pairs, held) == pytest.approx((0.01 + 0.64) / 2)

    def test_scores_match_scikit_learn(self):
        logits, classes = sample()
        p = softmax(logits, axis=1)
        assert negative_log_likelihood(logits, classes) == pytest.approx(log_loss(classes, p), rel=1e-10)
        assert brier_score(logits, classes) == pytest.approx(brier_score_loss(classes, p), rel=1e-10)
        logits, held = label_sample()
        truth, p = held.toarray().ravel(), expit(logits).ravel()
        assert negative_log_likelihood(logits, held) == pytest.approx(log_loss(truth, p), rel=1e-10)
        assert brier_score(logits, held) == pytest.approx(brier_score_loss(truth, p), rel=1e-10)

    def test_the_brier_score_of_two_classes_is_twice_that_of_the_label(self):
        logits, held = label_sample()
        two = np.stack([np.zeros(1000), logits[:, 0]], 1)
        y = held.toarray()[:, :1]
        assert brier_score(two, y[:, 0].astype(int)) == pytest.approx(2 * brier_score(logits[:, :1], y))
        assert negative_log_likelihood(two, y[:, 0].astype(int)) == pytest.approx(
            negative_log_likelihood(logits[:, :1], y)
        )

    def test_a_confident_mistake_has_a_finite_likelihood(self):
        assert negative_log_likelihood(np.array([[1e4, 0.0]]), np.array([1])) == 1e4
        assert negative_log_likelihood(np.array([[1e4]]), np.array([[False]])) == 1e4


def calibration_error(confidence: np.ndarray, came_true: np.ndarray, edges: list[float]) -> float:
    """The calibration error bin by bin, as the papers write it: bins (low, high]."""
    total, low = 0.0, -1.0
    for high in edges:
        inside = [i for i, p in enumerate(confidence) if low < p <= high]
        if inside:
            gap = np.mean([came_true[i] for i in inside]) - np.mean([confidence[i] for i in inside])
            total += len(inside) / len(confidence) * abs(gap)
        low = high
    return total


def outcomes(logits: np.ndarray, targets: np.ndarray | csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(targets, csr_matrix):
        return expit(logits).ravel(), targets.toarray().ravel()
    p = softmax(logits, axis=1)
    return p.max(1), p.argmax(1) == targets


@pytest.mark.parametrize("draw", [sample, label_sample])
class TestCalibration:
    def test_equal_width_bins_match_the_definition(self, draw):
        logits, targets = draw(temperature=2)
        expected = calibration_error(*outcomes(logits, targets), np.linspace(0, 1, 16)[1:].tolist())
        assert expected_calibration_error(logits, targets) == pytest.approx(expected, rel=1e-10)

    def test_equal_mass_bins_match_sorting(self, draw):
        logits, targets = draw(1500 if draw is sample else 375, temperature=2)
        confidence, came_true = outcomes(logits, targets)
        order = np.argsort(confidence)
        parts = np.split(order, 15)
        expected = np.mean([abs(came_true[part].mean() - confidence[part].mean()) for part in parts])
        assert adaptive_calibration_error(logits, targets) == pytest.approx(expected, rel=1e-10)
        assert set(reliability(logits, targets, equal_mass=True).counts) == {100}

    def test_bins_match_scikit_learn(self, draw):
        logits, targets = draw(temperature=2)
        confidence, came_true = outcomes(logits, targets)
        bins = reliability(logits, targets, 10)
        accuracy, mean = calibration_curve(came_true, confidence, n_bins=10)
        held = bins.counts > 0
        np.testing.assert_allclose(bins.accuracy[held], accuracy, rtol=1e-12)
        np.testing.assert_allclose(bins.confidence[held], mean, rtol=1e-12)
        np.testing.assert_allclose(bins.edges, np.linspace(0, 1, 11))
        assert bins.counts.sum() == len(confidence)
        assert (bins.accuracy[~held] == 0).all()

    @pytest.mark.parametrize("error", [expected_calibration_error, adaptive_calibration_error])
    def test_the_error_is_small_for_true_and_large_for_overconfident_probabilities(self, draw, error):
        assert error(*draw()) < 0.03
        assert error(*draw(temperature=5)) > 0.05

    @pytest.mark.parametrize("error", [expected_calibration_error, adaptive_calibration_error])
    def test_the_error_of_one_bin_is_the_mean_gap_and_a_lower_bound(self, draw, error):
        logits, targets = draw(temperature=2)
        confidence, came_true = outcomes(logits, targets)
        assert error(logits, targets, 1) == pytest.approx(abs(confidence.mean() - came_true.mean()), rel=1e-9)
        assert error(logits, targets) >= error(logits, targets, 1)

    @pytest.mark.parametrize("measure", MEASURES)
    def test_the_order_of_the_texts_does_not_matter(self, draw, measure):
        logits, targets = draw(300)
        logits = logits.round(1)
        order = np.random.default_rng(1).permutation(len(logits))
        assert measure(logits[order], targets[order]) == pytest.approx(measure(logits, targets), rel=1e-9)


def test_calibration_errors_by_hand():
    # 0.8, 0.8 and 0.55; right, wrong, right: bins (0.733, 0.8] and (0.533, 0.6].
    logits, classes = np.log([[0.8, 0.2], [0.8, 0.2], [0.45, 0.55]]), np.array([0, 1, 1])
    expected = (2 * abs(0.5 - 0.8) + abs(1 - 0.55)) / 3
    assert expected_calibration_error(logits, classes) == pytest.approx(expected)
    assert adaptive_calibration_error(logits, classes) == pytest.approx(expected)
    assert expected_calibration_error(logits, classes, 1) == pytest.approx(abs(2 / 3 - 2.15 / 3))


def test_equal_confidences_share_a_bin():
    bins = reliability(np.zeros((10, 2)), np.arange(10) % 2, 4, equal_mass=True)
    assert sorted(bins.counts) == [0, 0, 0, 10]
    assert bins.error == 0


def risks(*arguments) -> np.ndarray:
    """The risk of each coverage, from the surest decision alone to all."""
    curve = risk_coverage(*arguments)
    return curve.risk(np.arange(1, curve.total + 1))


class TestRiskCoverage:
    @pytest.mark.parametrize("draw", [sample, label_sample])
    @pytest.mark.parametrize("decimals", [0, 1, 9])
    def test_the_curve_matches_sorting_all_decisions(self, draw, decimals):
        logits, targets = draw(200)
        logits = logits.round(decimals)
        confidence, came_true = outcomes(logits, targets)
        if draw is label_sample:  # ties in logits, which rounding of probabilities may divide
            confidence, came_true = np.abs(logits).ravel(), ((logits > 0) == targets.toarray()).ravel()
        order = np.argsort(-confidence)
        _, starts, sizes = np.unique(-confidence[order], return_index=True, return_counts=True)
        wrong = np.repeat(np.add.reduceat(~came_true[order], starts, dtype=float) / sizes, sizes)
        expected = np.cumsum(wrong) / np.arange(1, len(wrong) + 1)
        np.testing.assert_allclose(risks(logits, targets), expected, atol=1e-12)
        assert area_under_risk_coverage(logits, targets) == pytest.approx(expected.mean(), rel=1e-10)

    def test_a_small_example_worked_by_hand(self):
        # Right, wrong, right, wrong, from sure to unsure.
        logits = np.log([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
        np.testing.assert_allclose(risks(logits[::-1], np.array([1, 0, 1, 0])), [0, 1 / 2, 1 / 3, 1 / 2])
        assert area_under_risk_coverage(logits, np.array([0, 1, 0, 1])) == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 4)

    def test_the_confidence_of_a_pair_is_the_probability_of_its_decision(self):
        logits, held = np.array([[3.0, -1.0], [0.5, -4.0]]), np.array([[True, True], [False, False]])
        # Above 1/2: -4 right, 3 right, -1 wrong, 0.5 wrong.
        np.testing.assert_allclose(risks(logits, held), [0, 0, 1 / 3, 1 / 2])
        # -1 decided for and 0.5 against, both improbable and right; 3 decided against, the least probable and wrong.
        decided = np.array([[False, True], [False, False]])
        np.testing.assert_array_equal(risks(logits, csr_matrix(held), decided), [0, 0, 0, 1 / 4])

    def test_the_confidence_of_a_text_is_the_probability_of_its_decision(self):
        logits, decided = np.log([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]]), np.array([0, 1, 0])
        # 0.9 right, 0.6 wrong, 0.2 right.
        np.testing.assert_allclose(risks(logits, np.array([0, 1, 1]), decided), [0, 1 / 2, 1 / 3])
        assert reliability(logits, np.array([0, 1, 1]), 1, False, decided).error == pytest.approx(2 / 3 - 1.7 / 3)

    def test_decisions_of_another_shape_are_an_error(self):
        with pytest.raises(ValueError, match=r"targets of shape \(3,\) and decisions of shape \(2,\)"):
            risk_coverage(np.zeros((3, 2)), np.zeros(3, int), np.zeros(2, int))

    def test_the_risk_at_full_coverage_is_the_error_rate(self):
        logits, classes = sample()
        assert risks(logits, classes)[-1] == pytest.approx((logits.argmax(1) != classes).mean())
        logits, held = label_sample()
        assert risks(logits, held)[-1] == pytest.approx(((logits > 0) != held.toarray()).mean())

    def test_informative_confidence_has_a_lower_aurc(self):
        rng = np.random.default_rng(0)
        right = rng.random(2000) < 0.8
        knows = np.stack([np.where(right, 3, 1) + rng.random(2000), np.zeros(2000)], 1)
        blind = np.stack([1 + rng.random(2000), np.zeros(2000)], 1)
        classes = (~right).astype(int)
        mistakes = 1 - right.mean()
        # The best there is: no mistake before the last ones (Geifman et al., ICLR 2019, by integration).
        best = mistakes + (1 - mistakes) * np.log(1 - mistakes)
        assert area_under_risk_coverage(knows, classes) == pytest.approx(best, abs=0.002)
        assert area_under_risk_coverage(blind, classes) == pytest.approx(mistakes, abs=0.03)

    def test_mistakes_among_ties_are_spread_evenly(self):
        # One sure and right, then four equal ones, two of them wrong, in any order.
        logits = np.array([[9.0, 0], *[[1, 0]] * 4])
        for classes in ([0, 1, 1, 0, 0], [0, 0, 1, 0, 1]):
            np.testing.assert_allclose(risks(logits, np.array(classes)), [0, 0.5 / 2, 1 / 3, 1.5 / 4, 2 / 5])


def flat(found: float | tuple) -> np.ndarray:
    return np.concatenate([np.ravel(each) for each in found]) if isinstance(found, tuple) else np.array([found])


@pytest.mark.parametrize("measure", [*MEASURES, risk_coverage, reliability])
class TestEveryMeasure:
    def test_dense_and_sparse_targets_of_any_precision_are_accepted(self, measure: Callable):
        logits, held = label_sample(100)
        expected = measure(logits, held)
        for given in (held.toarray(), held.toarray().astype(float), held.toarray().astype(np.int64)):
            np.testing.assert_equal(measure(logits, given), expected)
        single = logits.astype(np.float32)
        np.testing.assert_equal(measure(single, held), measure(single.astype(np.float64), held))

    @pytest.mark.parametrize(
        ("shape", "targets"),
        [
            ((0, 3), np.zeros(0, int)),
            ((3, 0), np.zeros((3, 0), bool)),
            ((3,), np.zeros(3, int)),
            ((3, 2), np.zeros(2, int)),
            ((3, 2), np.zeros((3, 3), bool)),
            ((3, 2), np.array([0, 1, 2])),
            ((3, 2), np.array([0, -1, 1])),
        ],
    )
    def test_mismatched_shapes_and_classes_are_an_error(self, measure, shape, targets):
        with pytest.raises(ValueError, match="logits"):
            measure(np.zeros(shape), targets)

    @pytest.mark.parametrize("draw", [sample, label_sample])
    def test_the_block_size_does_not_change_the_result(self, measure, draw, monkeypatch):
        logits, targets = draw(150)
        expected = measure(logits, targets)
        monkeypatch.setattr(outcomes_module, "_BLOCK_CELLS", 40)
        monkeypatch.setattr(adjust, "_SORTED_CELLS", 70)
        monkeypatch.setattr(adjust, "_MANY_CELLS", 60)
        np.testing.assert_allclose(flat(measure(logits, targets)), flat(expected), rtol=1e-11, atol=1e-11)

    @pytest.mark.parametrize("draw", [sample, label_sample])
    def test_lazily_adjusted_logits_give_the_same_result(self, measure, draw):
        logits, targets = draw(150)
        shift = np.linspace(-1, 1, logits.shape[1])
        made = measure(AdjustedLogits(logits, shift, 1.7), targets)
        np.testing.assert_array_equal(flat(made), flat(measure((logits - shift) / 1.7, targets)))

    def test_inputs_are_not_modified(self, measure):
        for logits, targets in (sample(50), label_sample(50)):
            kept, truth = logits.copy(), targets.copy()
            measure(logits, targets)
            np.testing.assert_array_equal(logits, kept)
            assert (truth != targets).sum() == 0

    def test_a_single_text_and_a_single_class_are_accepted(self, measure):
        for logits, targets in [
            (np.array([[2.0, 1.0]]), np.array([1])),
            (np.array([[2.0]]), np.array([0])),
            (np.array([[2.0]]), np.array([[True]])),
        ]:
            found = measure(logits, targets)
            assert all(np.isfinite(each).all() for each in (found if isinstance(found, tuple) else (found,)))
