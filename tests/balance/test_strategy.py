from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from counterpoise.balance import EffectiveNumber, Manual, Power, PowerSampler, Strategy
from counterpoise.errors import UserError

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(file.stem for file in (CONF / "strategy").glob("*.yaml") if file.stem not in ("base", "manual"))
R8 = np.array([2840, 1596, 253, 251, 206, 190, 108, 41])
COUNTS = {"r8": R8, "extreme": np.array([1, 2, 3, 100_000]), "equal": np.full(5, 20)}


@cache
def composed(*overrides: str) -> Strategy:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("train", overrides=list(overrides)).strategy)


def labels_of(counts: np.ndarray) -> list[str]:
    return [f"class {c}" for c in range(len(counts))]


def strategy(alpha: float, beta: float, **options) -> Strategy:
    return Strategy(PowerSampler(alpha), Power(beta), **options)


def refused(strategy: Strategy, counts: np.ndarray = R8) -> str:
    with pytest.raises(UserError) as told:
        strategy.balance(labels_of(counts), counts)
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize("name", NAMES)
class TestEveryStrategy:
    """What every conf/strategy/*.yaml keeps to."""

    @pytest.fixture(params=COUNTS)
    def balance(self, name, request):
        counts = COUNTS[request.param]
        return composed(f"strategy={name}").balance(labels_of(counts), counts)

    def test_emphasis_is_a_share_of_the_training(self, balance):
        assert balance.emphasis.sum() == pytest.approx(1, rel=1e-12)
        assert (balance.emphasis > 0).all()

    def test_a_drawn_example_weighs_1_on_average(self, balance):
        assert balance.probabilities @ balance.weights == pytest.approx(1, rel=1e-12)
        assert balance.probabilities.sum() == pytest.approx(1, rel=1e-12)

    def test_all_numbers_are_finite(self, balance):
        for values in (balance.probabilities, balance.weights, balance.expected_draws):
            assert values.shape == balance.counts.shape
            assert np.isfinite(values).all()
        assert balance.weight_ratio >= 1
        assert 0 < balance.effective_sample_fraction <= 1 + 1e-12

    def test_the_largest_class_is_not_emphasised_less_than_a_smaller_one(self, balance):
        order = np.argsort(balance.counts, kind="stable")
        assert (np.diff(balance.emphasis[order]) > -1e-12).all()

    def test_equal_counts_are_left_alone(self, name):
        balance = composed(f"strategy={name}").balance(list("abc"), np.full(3, 20))
        np.testing.assert_allclose(balance.weights, 1, rtol=1e-12)
        np.testing.assert_allclose(balance.probabilities, 1 / 3, rtol=1e-12)

    def test_the_loss_gets_the_weights_and_gives_finite_gradients(self, balance):
        logits = torch.zeros(len(balance.counts), len(balance.counts), requires_grad=True)
        balance.loss(logits, torch.arange(len(balance.counts))).backward()
        assert logits.grad.isfinite().all()
        np.testing.assert_allclose(balance.loss.class_weights, balance.weights, rtol=1e-6)


@pytest.mark.parametrize(
    ("alpha", "beta"), [(0, 0), (0, 0.5), (0, 1), (0.5, 0), (0.5, 0.5), (0.25, 0.75), (1, 0), (0.3, 0.2)]
)
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_emphasis_is_proportional_to_the_power_of_the_counts(alpha, beta, counts):
    balance = strategy(alpha, beta).balance(labels_of(counts), counts)
    law = counts ** (1.0 - alpha - beta)
    np.testing.assert_allclose(balance.emphasis, law / law.sum(), rtol=1e-10)


def test_balanced_twice_is_refused_in_one_line():
    told = refused(strategy(1, 1))
    assert "alpha + beta = 2" in told
    assert "allow_overcorrection" in told


def test_overcorrection_is_a_choice():
    balance = strategy(1, 1, allow_overcorrection=True).balance(labels_of(R8), R8)
    np.testing.assert_allclose(balance.emphasis, 1 / R8 / (1 / R8).sum(), rtol=1e-10)


@pytest.mark.parametrize("alpha", [0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 0.9, 1])
def test_exactly_the_whole_correction_is_allowed(alpha):
    balance = strategy(alpha, 1 - alpha).balance(labels_of(R8), R8)
    np.testing.assert_allclose(balance.emphasis, 1 / 8, rtol=1e-10)


def test_two_square_roots_correct_once():
    balance = strategy(0.5, 0.5).balance(labels_of(R8), R8)
    np.testing.assert_allclose(balance.emphasis, 1 / 8, rtol=1e-10)


@pytest.mark.parametrize(("alpha", "beta"), [(1, 0.01), (0.6, 0.5), (0, 1.5), (2, 0)])
def test_anything_above_the_whole_correction_is_refused(alpha, beta):
    assert "correct twice" in refused(strategy(alpha, beta))


def test_equal_counts_leave_nothing_to_correct_twice():
    strategy(1, 0.5).balance(list("ab"), np.array([7, 7]))


def test_effective_number_on_top_of_class_balanced_sampling_is_refused():
    assert "alpha=1" in refused(Strategy(PowerSampler(1.0), EffectiveNumber(0.999)))


def test_a_full_effective_number_correction_on_top_of_square_root_sampling_is_refused():
    assert "alpha=0.5" in refused(Strategy(PowerSampler(0.5), EffectiveNumber(0.9999)))


def test_effective_number_alone_is_allowed():
    Strategy(PowerSampler(0.0), EffectiveNumber(0.9999)).balance(labels_of(R8), R8)


def test_manual_weights_may_express_costs_on_top_of_any_sampler():
    balance = Strategy(PowerSampler(1.0), Manual([1, 20])).balance(["fine", "fraud"], np.array([90, 10]))
    np.testing.assert_allclose(balance.emphasis, [1 / 21, 20 / 21])


def test_the_cap_says_which_classes_it_touched():
    counts = np.array([100, 50, 4, 1])
    balance = strategy(0, 1, max_ratio=10).balance(labels_of(counts), counts)
    assert balance.weight_ratio == pytest.approx(10, rel=1e-12)
    np.testing.assert_array_equal(balance.capped, [False, False, True, True])
    assert balance.probabilities @ balance.weights == pytest.approx(1, rel=1e-12)


def test_weights_are_computed_from_the_counts_and_normalised_by_what_is_drawn():
    # q = 3/4, 1/4 by square roots of 9, 1; w ~ 1/3, 1; E[w] = 1/2.
    balance = strategy(0.5, 0.5).balance(["a", "b"], np.array([9, 1]))
    np.testing.assert_allclose(balance.probabilities, [3 / 4, 1 / 4])
    np.testing.assert_allclose(balance.weights, [2 / 3, 2])
    np.testing.assert_allclose(balance.expected_draws, [10 * 0.75 / 9, 10 * 0.25])
    assert balance.effective_sample_fraction == pytest.approx(3 / 4)


def test_manual_weights_come_from_the_command_line():
    by_hand = composed("strategy=manual", "strategy.weights.by_label={fraud: 20, fine: 1}")
    balance = by_hand.balance(["fine", "fraud"], np.array([95, 5]))
    assert balance.weight_ratio == pytest.approx(20)
    in_order = composed("strategy=manual", "strategy.weights.by_label=[1, 20]")
    np.testing.assert_array_equal(in_order.balance(["fine", "fraud"], np.array([95, 5])).weights, balance.weights)


def test_a_class_that_no_weight_names_is_refused_from_the_command_line():
    by_hand = composed("strategy=manual", "strategy.weights.by_label={fraud: 20}")
    with pytest.raises(UserError, match="'fine'"):
        by_hand.balance(["fine", "fraud"], np.array([95, 5]))
