"""Weighted sums of logits."""

import numpy as np
import pytest
from scipy.special import log_softmax

from counterpoise.model.ensemble import (
    BASELINE_WEIGHTS,
    choose_baseline_weight,
    combine,
    combine_held_out,
    factors,
    scores_by_size,
    spread,
    validation_factors,
)

RNG = np.random.default_rng(0)


def accuracy(logits, targets):
    return float((logits.argmax(axis=1) == targets).mean())


def test_a_constant_added_to_all_logits_of_a_text_changes_no_single_label_spread():
    logits = RNG.normal(size=(50, 4))
    assert spread(logits + RNG.normal(size=(50, 1)), False) == pytest.approx(spread(logits, False))
    assert spread(log_softmax(logits, axis=1), False) == pytest.approx(spread(logits, False))


def test_the_multi_label_spread_is_the_standard_deviation():
    logits = RNG.normal(3, 2, size=(40, 5))
    assert spread(logits, True) == pytest.approx(logits.std())


@pytest.mark.parametrize("scales", [(1, 1, 1), (1, 10, 0.1)])
@pytest.mark.parametrize("weight", [0, 0.3, 0.9])
def test_the_combination_does_not_depend_on_the_scales_of_the_logits(scales, weight):
    logits = [RNG.normal(size=(30, 3)) for _ in scales]
    scaled = [scale * each for scale, each in zip(scales, logits, strict=True)]

    def combined(parts):
        spreads = [spread(each, False) for each in parts]
        return combine(parts, factors(spreads[:2], spreads[2], weight)) / np.mean(spreads[:2])

    np.testing.assert_allclose(combined(scaled), combined(logits), atol=1e-5)


def test_one_model_without_a_baseline_keeps_its_logits():
    logits = RNG.normal(size=(20, 3)).astype(np.float32)
    np.testing.assert_array_equal(combine([logits], factors([spread(logits, False)], None, 0.0)), logits)


def test_the_weight_with_the_best_score_is_chosen_and_the_smallest_of_equals():
    weight, scores = choose_baseline_weight(lambda weight: min(weight, 0.4))
    assert weight == pytest.approx(0.4)
    assert list(scores) == pytest.approx(BASELINE_WEIGHTS)


def test_a_model_without_information_gets_no_weight_and_a_perfect_one_nearly_all():
    targets = RNG.integers(0, 3, 200)
    perfect, noise = 5 * np.eye(3)[targets], RNG.normal(size=(200, 3))

    def chosen(model, baseline):
        def score(weight):
            by = validation_factors([model], baseline, weight, False)
            return accuracy(combine_held_out([model], [0], baseline, by), targets)

        return choose_baseline_weight(score)[0]

    assert chosen(perfect, noise) == 0
    assert chosen(noise, perfect) > 0.5


def test_a_validation_text_has_the_mean_of_the_models_validated_on_it_and_the_baseline():
    first, second, other = (RNG.normal(size=(rows, 3)).astype(np.float32) for rows in (4, 4, 6))
    baseline = RNG.normal(size=(10, 3)).astype(np.float32)
    by = np.array([0.5, 2.0, 3.0, 0.25])
    found = combine_held_out([first, other, second], [0, 1, 0], baseline, by)
    np.testing.assert_allclose(found[:4], 3 / 2 * (0.5 * first + 3.0 * second) + 0.25 * baseline[:4], rtol=1e-5)
    np.testing.assert_allclose(found[4:], 3 * 2.0 * other + 0.25 * baseline[4:], rtol=1e-5)


def test_models_of_equal_logits_have_the_same_held_out_and_test_logits():
    logits = RNG.normal(size=(5, 3)).astype(np.float32)
    by = validation_factors([logits, logits, logits], None, 0.0, False)
    held_out = combine_held_out([logits, logits, logits], [0, 1, 2], None, by)
    np.testing.assert_allclose(held_out, np.tile(combine([logits] * 3, by), (3, 1)), rtol=1e-5)


def test_the_scores_by_size_are_means_over_ensembles_of_that_size():
    models = [np.full((1, 2), float(value)) for value in (1, 2, 3, 4)]
    means = scores_by_size(models, lambda some: float(sum(each[0, 0] for each in some)), choices=4)
    assert means == pytest.approx([2.5, 5, 7.5, 10])
