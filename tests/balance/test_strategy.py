from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from scipy.optimize import minimize, minimize_scalar
from scipy.sparse import csr_matrix
from scipy.special import logsumexp
from sklearn.utils.class_weight import compute_class_weight

from commandline import TASK_OF_LOSS
from counterpoise.balance import (
    ClassIndex,
    Correction,
    DistributionBalanced,
    EffectiveNumber,
    Focal,
    InverseFrequency,
    ManualWeights,
    PowerSampler,
    RepeatFactorSampler,
    SoftmaxFocal,
    Strategy,
    cross_entropy,
)
from counterpoise.errors import UserError
from refusals import user_error

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(file.stem for file in (CONF / "strategy").glob("*.yaml") if file.stem not in ("base", "manual"))
R8 = np.array([2840, 1596, 253, 251, 206, 190, 108, 41])
COUNTS = {"r8": R8, "extreme": np.array([1, 2, 3, 100_000]), "equal": np.full(5, 20)}


def label_sets(counts: list[int], rows: int, seed: int = 0) -> csr_matrix:
    """Return label sets in which label c has `counts[c]` rows, independently of the others."""
    rng = np.random.default_rng(seed)
    return csr_matrix(np.stack([rng.permutation(rows) < n for n in counts], axis=1))


LABEL_SETS = {
    "long_tail": label_sets([1500, 1200, 700, 90, 20, 4, 1, 1], 2000),
    "absent_label": label_sets([300, 30, 0], 400),
    "everywhere": label_sets([50, 5], 50),
    "mostly_unlabelled": label_sets([3, 1], 5000),
}


@cache
def composed(*overrides: str) -> Strategy:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("train", overrides=list(overrides)).strategy)


def labels_of(counts: np.ndarray) -> list[str]:
    return [f"class {c}" for c in range(len(counts))]


def index_of(data: np.ndarray | csr_matrix) -> ClassIndex:
    """Return the index of label sets, or of classes with these counts."""
    if isinstance(data, csr_matrix):
        return ClassIndex.from_targets(data, data.shape[1])
    return ClassIndex.from_targets(np.repeat(np.arange(len(data)), data), len(data))


def balanced(strategy: Strategy, data: np.ndarray | csr_matrix, labels: list[str] | None = None) -> Correction:
    index = index_of(data)
    return strategy.correction(labels or labels_of(index.counts), index)


def strategy(alpha: float, beta: float, **options) -> Strategy:
    return Strategy(PowerSampler(alpha), InverseFrequency(beta), **options)


def refused(strategy: Strategy, data: np.ndarray | csr_matrix = R8) -> str:
    return user_error(balanced, strategy, data)


@pytest.mark.parametrize("name", NAMES)
class TestEveryStrategy:
    """Properties of every conf/strategy/*.yaml with single-label data."""

    @pytest.fixture(params=COUNTS)
    def correction(self, name, request):
        return balanced(composed(f"strategy={name}"), COUNTS[request.param])

    def test_the_effective_prior_is_a_positive_distribution(self, correction):
        assert correction.effective_prior.sum() == pytest.approx(1, rel=1e-12)
        assert (correction.effective_prior > 0).all()

    def test_all_numbers_are_finite(self, correction):
        for values in (
            correction.sampling_probs,
            correction.class_weights,
            correction.draws_per_example,
            correction.prior_logits,
        ):
            assert values.shape == correction.counts.shape
            assert np.isfinite(values).all()
        assert correction.weight_ratio >= 1
        assert 0 < correction.effective_sample_size <= 1 + 1e-12

    def test_the_effective_prior_does_not_fall_with_the_count(self, correction):
        order = np.argsort(correction.counts, kind="stable")
        assert (np.diff(correction.effective_prior[order]) > -1e-12).all()

    def test_equal_counts_are_not_corrected(self, name):
        correction = balanced(composed(f"strategy={name}"), np.full(3, 20))
        np.testing.assert_allclose(correction.class_weights, 1, rtol=1e-12)
        np.testing.assert_allclose(correction.sampling_probs, 1 / 3, rtol=1e-12)

    def test_no_class_weight_is_limited_by_default(self, correction):
        assert not correction.capped.any()

    def test_the_loss_has_the_class_weights_or_is_refused_for_the_task(self, name, correction):
        if TASK_OF_LOSS.get(name) == "multi_label":
            with pytest.raises(UserError, match="is for multi_label data"):
                composed(f"strategy={name}").loss(correction)
        elif name != "class_balanced_focal":
            loss = composed(f"strategy={name}").loss(correction)
            np.testing.assert_allclose(loss.class_weights, correction.class_weights, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", LABEL_SETS.values(), ids=LABEL_SETS)
class TestEveryStrategyWithManyLabels:
    """Properties of every conf/strategy/*.yaml with multi-label data."""

    @pytest.fixture
    def correction(self, name, data):
        return balanced(composed(f"strategy={name}"), data)

    def test_expected_class_counts_are_sums_over_the_texts(self, correction, data):
        assert correction.draws_per_row.sum() == pytest.approx(correction.epoch_size, rel=1e-12)
        np.testing.assert_allclose(
            correction.expected_class_counts, correction.draws_per_row @ data.toarray(), rtol=1e-10
        )

    def test_weights_of_a_label_differ_by_at_most_10_by_default(self, correction, name):
        ratios = correction.class_weights / correction.negative_weights
        limit = np.inf if composed(f"strategy={name}").max_ratio is None else 10
        assert correction.weight_ratio == np.maximum(ratios, 1 / ratios).max() <= limit * (1 + 1e-12)

    def test_all_numbers_are_finite(self, correction):
        for values in (
            correction.class_weights,
            correction.negative_weights,
            correction.draws_per_example,
            correction.prior_logits,
        ):
            assert values.shape == correction.counts.shape
            assert np.isfinite(values).all()
        assert (correction.effective_positive_rate >= 0).all()
        assert (correction.effective_positive_rate <= 1 + 1e-12).all()
        assert correction.effective_prior.sum() == pytest.approx(1, rel=1e-12)
        assert 0 < correction.effective_sample_size <= 1 + 1e-12

    def test_a_loss_for_the_other_task_is_refused(self, name, correction):
        if TASK_OF_LOSS.get(name) == "single_label":
            with pytest.raises(UserError, match="is for single_label data"):
                composed(f"strategy={name}").loss(correction)


@pytest.mark.parametrize(
    ("alpha", "beta"), [(0, 0), (0, 0.5), (0, 1), (0.5, 0), (0.5, 0.5), (0.25, 0.75), (1, 0), (0.3, 0.2)]
)
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_the_effective_prior_is_a_power_of_the_counts(alpha, beta, counts):
    correction = balanced(strategy(alpha, beta), counts)
    law = counts ** (1.0 - alpha - beta)
    np.testing.assert_allclose(correction.effective_prior, law / law.sum(), rtol=1e-10)


def test_sampler_and_weights_that_both_balance_are_refused_in_one_line():
    message = refused(strategy(1, 1))
    assert "alpha + beta = 2" in message
    assert "allow_overcorrection" in message


def test_allow_overcorrection_permits_over_correction():
    correction = balanced(strategy(1, 1, allow_overcorrection=True), R8)
    np.testing.assert_allclose(correction.effective_prior, 1 / R8 / (1 / R8).sum(), rtol=1e-10)


@pytest.mark.parametrize("alpha", [0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 0.9, 1])
def test_exactly_the_full_correction_is_allowed(alpha):
    correction = balanced(strategy(alpha, 1 - alpha), R8)
    np.testing.assert_allclose(correction.effective_prior, 1 / 8, rtol=1e-10)


def test_square_root_sampler_and_weights_are_a_full_correction():
    correction = balanced(strategy(0.5, 0.5), R8)
    np.testing.assert_allclose(correction.effective_prior, 1 / 8, rtol=1e-10)


@pytest.mark.parametrize(("alpha", "beta"), [(1, 0.01), (0.6, 0.5), (0, 1.5), (2, 0)])
def test_slightly_more_than_the_full_correction_is_refused(alpha, beta):
    assert "over-correct" in refused(strategy(alpha, beta))


def test_equal_counts_are_never_over_corrected():
    balanced(strategy(1, 0.5), np.array([7, 7]))


def test_effective_number_on_top_of_class_balanced_sampling_is_refused():
    assert "alpha=1" in refused(Strategy(PowerSampler(1.0), EffectiveNumber(0.999)))


def test_a_full_effective_number_correction_on_top_of_square_root_sampling_is_refused():
    assert "alpha=0.5" in refused(Strategy(PowerSampler(0.5), EffectiveNumber(0.9999)))


def test_effective_number_alone_is_allowed():
    balanced(Strategy(PowerSampler(0.0), EffectiveNumber(0.9999)), R8)


def test_manual_weights_that_express_costs_are_a_choice():
    assert "class weights (beta=1.36)" in refused(
        Strategy(PowerSampler(1.0), ManualWeights([1, 20])), np.array([90, 10])
    )
    costs = Strategy(PowerSampler(1.0), ManualWeights([1, 20]), allow_overcorrection=True)
    correction = balanced(costs, np.array([90, 10]))
    np.testing.assert_allclose(correction.effective_prior, [1 / 21, 20 / 21])


def test_limited_classes_are_marked():
    counts = np.array([100, 50, 4, 1])
    correction = balanced(strategy(0, 1, max_ratio=10), counts)
    assert correction.weight_ratio == pytest.approx(10, rel=1e-12)
    np.testing.assert_array_equal(correction.capped, [False, False, True, True])
    assert correction.sampling_probs @ correction.class_weights == pytest.approx(1, rel=1e-12)


def test_weights_follow_the_counts_and_have_mean_1_over_drawn_examples():
    # q = 3/4, 1/4 by square roots of 9, 1; w ~ 1/3, 1; E[w] = 1/2.
    correction = balanced(strategy(0.5, 0.5), np.array([9, 1]))
    np.testing.assert_allclose(correction.sampling_probs, [3 / 4, 1 / 4])
    np.testing.assert_allclose(correction.class_weights, [2 / 3, 2])
    np.testing.assert_allclose(correction.draws_per_example, [10 * 0.75 / 9, 10 * 0.25])
    assert correction.effective_sample_size == pytest.approx(3 / 4)


FRAUD = (np.array([95, 5]), ["fine", "fraud"])


def test_manual_weights_are_read_from_the_command_line():
    by_hand = balanced(composed("strategy=manual", "strategy.weights.by_label={fraud: 19, fine: 1}"), *FRAUD)
    assert by_hand.weight_ratio == pytest.approx(19)
    in_order = balanced(composed("strategy=manual", "strategy.weights.by_label=[1, 19]"), *FRAUD)
    np.testing.assert_array_equal(in_order.class_weights, by_hand.class_weights)


def test_a_class_without_a_weight_on_the_command_line_is_refused():
    by_hand = composed("strategy=manual", "strategy.weights.by_label={fraud: 20}")
    with pytest.raises(UserError, match="'fine'"):
        balanced(by_hand, *FRAUD)


def test_options_of_the_loss_are_passed_to_it():
    loss = composed("strategy=weighted", "strategy.loss.label_smoothing=0.1").loss(balanced(strategy(0, 0), R8))
    assert loss.label_smoothing == 0.1


def test_sampler_weights_and_loss_combine_freely():
    made = composed("strategy=square_root", "strategy/loss=focal", "strategy/sampler=repeat_factor")
    assert (made.sampler, made.weights) == (RepeatFactorSampler(0.001), InverseFrequency(0.5))
    assert isinstance(made.loss, partial)
    assert isinstance(made.loss(balanced(made, LABEL_SETS["long_tail"])), Focal)
    assert isinstance(made.loss(balanced(made, R8)), SoftmaxFocal)


def test_options_left_over_from_another_loss_are_refused_with_the_fix():
    overrides = ("strategy=class_balanced_focal", "strategy/loss=cross_entropy")
    with pytest.raises(
        InstantiationException, match=r"label_weights: cross_entropy takes no .*; ~strategy\.loss\.label_weights"
    ):
        composed(*overrides)
    assert composed(*overrides, "~strategy.loss.label_weights").loss.func is cross_entropy
    assert Strategy(loss=partial(lambda correction, **settings: None, anything=1)).loss.keywords == {"anything": 1}


def test_allow_overcorrection_also_applies_to_the_loss():
    by_choice = composed("strategy=logit_adjusted", "strategy.loss.tau=1.5", "strategy.allow_overcorrection=true")
    assert by_choice.loss(balanced(by_choice, R8)).tau == 1.5
    unasked = composed("strategy=logit_adjusted", "strategy.loss.tau=1.5")
    with pytest.raises(UserError, match="upside down"):
        unasked.loss(balanced(unasked, R8))


def test_balanced_softmax_is_logit_adjustment_with_tau_1():
    made = composed("strategy=balanced_softmax", "strategy.sampler.alpha=0.5")
    correction = balanced(made, R8)
    np.testing.assert_allclose(made.loss(correction).effective_prior(correction), 1 / 8, rtol=1e-9)


def test_class_balanced_focal_loss_weights_classes_by_effective_numbers():
    made = composed("strategy=class_balanced_focal", "strategy.loss.label_weights.beta=0.99")
    loss, effective = made.loss(balanced(made, R8)), balanced(Strategy(weights=EffectiveNumber(0.99)), R8)
    np.testing.assert_allclose(loss.class_weights, effective.class_weights, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "rebalance", "negative_tolerant"),
    [("distribution_balanced", True, True), ("r_bce_focal", True, False), ("ntr_focal", False, True)],
)
def test_the_parts_of_the_distribution_balanced_loss_are_strategies(name, rebalance, negative_tolerant):
    made = composed(f"strategy={name}")
    loss = made.loss(balanced(made, LABEL_SETS["long_tail"]))
    assert isinstance(loss, DistributionBalanced)
    assert (loss.rebalance, loss.negative_tolerant, loss.gamma) == (rebalance, negative_tolerant, 2.0)


def test_repeat_factors_with_full_weights_are_refused():
    both = Strategy(RepeatFactorSampler(0.5), InverseFrequency(1.0))
    assert "over-correct" in refused(both)
    assert "over-correct" in refused(both, LABEL_SETS["long_tail"])
    balanced(Strategy(RepeatFactorSampler(0.5), InverseFrequency(0.5)), R8)
    balanced(Strategy(RepeatFactorSampler(0.5), InverseFrequency(0.5)), LABEL_SETS["long_tail"])


def test_full_weights_are_allowed_with_repeat_factors_of_1():
    balanced(Strategy(RepeatFactorSampler(41 / 5485), InverseFrequency(1.0)), R8)


def test_multi_label_over_correction_is_refused():
    assert "alpha + beta = 1.5" in refused(strategy(1, 0.5), LABEL_SETS["long_tail"])
    assert "alpha + beta = 2" in refused(strategy(1, 1, max_ratio=None), LABEL_SETS["absent_label"])
    balanced(strategy(1, 1, allow_overcorrection=True), LABEL_SETS["long_tail"])


@pytest.mark.parametrize("alpha", [0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 0.9, 1])
@pytest.mark.parametrize("data", LABEL_SETS.values(), ids=LABEL_SETS)
def test_multi_label_full_correction_is_allowed(alpha, data):
    balanced(strategy(alpha, 1 - alpha), data)


def test_unlimited_balanced_weights_equal_one_vs_rest_weights():
    targets = LABEL_SETS["long_tail"]
    correction = balanced(strategy(0, 1, max_ratio=None), targets)
    for c in range(targets.shape[1]):
        column = targets.toarray()[:, c]
        expected = compute_class_weight("balanced", classes=np.array([False, True]), y=column)
        np.testing.assert_allclose([correction.negative_weights[c], correction.class_weights[c]], expected, rtol=1e-10)
    np.testing.assert_allclose(correction.effective_positive_rate, 0.5, rtol=1e-10)
    np.testing.assert_allclose(correction.effective_prior, 1 / 8, rtol=1e-10)
    np.testing.assert_allclose(correction.prior_logits, 0, atol=1e-10)
    pos_weight = (2000 - correction.counts) / correction.counts
    np.testing.assert_allclose(correction.class_weights / correction.negative_weights, pos_weight, rtol=1e-10)


@pytest.mark.parametrize("beta", [0, 0.25, 0.5, 1])
def test_the_odds_of_the_effective_positive_rate_are_a_power_of_the_odds_of_the_label(beta):
    correction = balanced(strategy(0, beta, max_ratio=None), LABEL_SETS["long_tail"])
    odds = correction.counts / (2000 - correction.counts)
    share = correction.effective_positive_rate
    np.testing.assert_allclose(share / (1 - share), odds ** (1.0 - beta), rtol=1e-10)


def test_multi_label_weights_are_limited_to_10_by_default():
    data = LABEL_SETS["long_tail"]
    correction = balanced(strategy(0, 1), data)
    np.testing.assert_allclose(correction.class_weights[3:] / correction.negative_weights[3:], 10, rtol=1e-12)
    np.testing.assert_array_equal(correction.capped, [False] * 3 + [True] * 5)
    assert balanced(strategy(0, 1, max_ratio=100), data).weight_ratio == pytest.approx(100)
    assert balanced(strategy(0, 1, max_ratio=None), data).weight_ratio == pytest.approx(1999)
    assert not balanced(strategy(0, 1, max_ratio=None), data).capped.any()


def test_the_weights_of_a_label_of_almost_all_texts_are_limited_too():
    correction = balanced(strategy(0, 1), label_sets([990, 500], 1000))
    np.testing.assert_allclose(correction.class_weights / correction.negative_weights, [0.1, 1], rtol=1e-12)
    np.testing.assert_array_equal(correction.capped, [True, False])


def test_manual_ratios_are_limited_only_by_an_explicit_max_ratio():
    data = label_sets([50, 1], 100)
    np.testing.assert_allclose(balanced(Strategy(weights=ManualWeights([1, 40])), data).weight_ratio, 40)
    assert balanced(Strategy(weights=ManualWeights([1, 40]), max_ratio=20), data).weight_ratio == pytest.approx(20)


@pytest.mark.parametrize("max_ratio", ["none", 0.5, 0, -1, float("nan")])
def test_an_invalid_max_ratio_is_refused(max_ratio):
    with pytest.raises(UserError, match="max_ratio=") as error:
        Strategy(max_ratio=max_ratio)
    assert "\n" not in str(error.value)


def test_the_multi_label_effective_sample_size_is_over_texts_and_labels():
    # Labels held by 1 of 4 and 2 of 4 texts: balanced, 4/2 and 2/3 in the first, 1 in the second. E[w^2] over 8 pairs.
    correction = balanced(strategy(0, 1), csr_matrix(np.array([[1, 1], [0, 1], [0, 0], [0, 0]], bool)))
    np.testing.assert_allclose(correction.class_weights, [2, 1])
    np.testing.assert_allclose(correction.negative_weights, [2 / 3, 1])
    assert correction.effective_sample_size == pytest.approx(1 / ((4 + 3 * 4 / 9 + 4) / 8))


def test_draws_per_positive_are_averaged_over_the_texts_of_the_label():
    correction = balanced(strategy(1, 0), LABEL_SETS["long_tail"])
    expected = [correction.draws_per_row[correction.index.members(c)].mean() for c in range(8)]
    np.testing.assert_allclose(correction.draws_per_example, expected, rtol=1e-12)


@pytest.mark.parametrize(("alpha", "beta"), [(0, 0), (0, 1), (0.5, 0.5), (1, 0)])
@pytest.mark.parametrize("max_ratio", [10.0, None])
def test_prior_logits_of_labels_are_the_constant_of_least_loss(alpha, beta, max_ratio):
    targets = LABEL_SETS["long_tail"]
    correction = balanced(strategy(alpha, beta, max_ratio=max_ratio), targets)
    for c, column in enumerate(targets.toarray().T):
        weights = correction.draws_per_row * np.where(
            column, correction.class_weights[c], correction.negative_weights[c]
        )
        signs = np.where(column, -1, 1)
        best = minimize_scalar(lambda z, w=weights, s=signs: w @ np.logaddexp(0, s * z), bounds=(-20, 20))
        assert correction.prior_logits[c] == pytest.approx(best.x, abs=1e-3)


@pytest.mark.parametrize(("alpha", "beta"), [(0, 0), (0, 0.5), (0, 1), (0.5, 0.5), (1, 0)])
def test_prior_logits_of_classes_are_the_constant_of_least_loss(alpha, beta):
    correction = balanced(strategy(alpha, beta), R8)
    classes = np.repeat(np.arange(8), R8)
    weights = correction.draws_per_row * correction.class_weights[classes] / correction.epoch_size
    per_class = np.bincount(classes, weights)
    best = minimize(lambda z: logsumexp(z) * weights.sum() - per_class @ z, np.zeros(8), tol=1e-10).x
    np.testing.assert_allclose(
        correction.prior_logits - logsumexp(correction.prior_logits), best - logsumexp(best), atol=1e-4
    )


def test_a_label_without_positives_has_the_prior_logit_of_half_a_draw():
    correction = balanced(strategy(0, 0), LABEL_SETS["absent_label"])
    assert correction.prior_logits[2] == pytest.approx(np.log(0.5 / 399.5))
