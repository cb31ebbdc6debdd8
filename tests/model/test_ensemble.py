"""Weighted sums of logits."""

import numpy as np
import pytest
from scipy.special import log_softmax

from counterpoise.model.ensemble import (
    BASELINE_WEIGHTS,
    choose_baseline_weight,
    combine,
    combine_weighted,
    factors,
    scores_by_size,
    spread,
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
            return accuracy(combine_weighted([model], baseline, weight, False), targets)

        return choose_baseline_weight(score)[0]

    assert chosen(perfect, noise) == 0
    assert chosen(noise, perfect) > 0.5


def test_the_scores_by_size_are_means_over_ensembles_of_that_size():
    models = [np.full((1, 2), float(value)) for value in (1, 2, 3, 4)]
    means = scores_by_size(models, lambda some: float(sum(each[0, 0] for each in some)), choices=4)
    assert means == pytest.approx([2.5, 5, 7.5, 10])
