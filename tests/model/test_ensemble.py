"""Weighted sums of logits."""

import numpy as np
import pytest
from scipy.special import log_softmax

from counterpoise.model.ensemble import BASELINE_WEIGHTS, choose_baseline_weight, combine, factors, spread

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


def test_the_weight_with_the_best_validation_score_is_chosen_and_the_smallest_of_equals():
    targets = RNG.integers(0, 3, 200)
    perfect = 5 * np.eye(3)[targets]
    noise = RNG.normal(size=(200, 3))
    weight, scores = choose_baseline_weight([noise], perfect, targets, accuracy, False)
    assert list(scores) == pytest.approx(BASELINE_WEIGHTS)
    assert scores[weight] == max(scores.values())
    assert all(scores[smaller] < scores[weight] for smaller in scores if smaller < weight)
    assert choose_baseline_weight([perfect], noise, targets, accuracy, False)[0] == 0
