"""Sentences on models that are worse than constant predictions, and on trainings that got worse."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from counterpoise.metrics.class_counts import ClassCounts
from counterpoise.training.verdict import baseline_verdict, peaked_early
from scores import multi_label_scores, single_label_scores

COUNTS = np.array([60, 30, 10])


def single(decided: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    return single_label_scores(ClassCounts.of(truth, decided, 3), COUNTS)


def multiple(decided: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    return multi_label_scores(decided, decided.astype(float), csr_matrix(truth), truth.sum(axis=0))


def test_a_model_far_below_the_majority_class_gets_a_verdict_with_both_numbers():
    truth = np.repeat([0, 1, 2], COUNTS)
    rotated = single((truth + 1) % 3, truth)
    found = baseline_verdict(rotated)
    assert "worse than always predicting the largest class" in found
    for number in ("0.000", "0.600"):
        assert number in found


@pytest.mark.parametrize("right", [0.0, 0.1, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_verdict_follows_the_accuracy(right, seed):
    rng, truth = np.random.default_rng(seed), np.repeat([0, 1, 2], COUNTS)
    decided = np.where(rng.random(100) < right, truth, (truth + 1 + rng.integers(0, 2, 100)) % 3)
    scores = single(decided, truth)
    found = baseline_verdict(scores)
    assert bool(found) == (scores["accuracy"] < scores["majority_accuracy"])
    if found and scores["macro_f1"] >= scores["majority_macro_f1"]:
        assert "By accuracy" in found  # rare classes may be worth it


@pytest.mark.parametrize("constant", [0, 1, 2])
def test_constant_predictions_are_not_worse_than_the_best_of_them(constant):
    truth = np.repeat([0, 1, 2], COUNTS)
    assert bool(baseline_verdict(single(np.full(100, constant), truth))) == (constant > 0)


@pytest.mark.parametrize("seed", range(4))
def test_multi_label_models_are_compared_with_the_most_frequent_labels(seed):
    rng = np.random.default_rng(seed)
    truth = rng.random((400, 5)) < [0.8, 0.7, 0.3, 0.1, 0.05]
    constant = np.zeros_like(truth)
    constant[:, :2] = True
    scores = multiple(constant, truth)
    assert scores["constant_micro_f1"] == pytest.approx(scores["micro_f1"])
    assert scores["constant_macro_f1"] == pytest.approx(scores["macro_f1"])
    assert baseline_verdict(scores) == ""
    assert baseline_verdict(multiple(truth, truth)) == ""
    assert "worse than predicting the most frequent labels" in baseline_verdict(
        multiple(rng.random((400, 5)) < 0.1, truth)
    )
    assert "no correct label" in baseline_verdict(multiple(np.zeros_like(truth), truth))
    assert "no correct label" in baseline_verdict(multiple(~truth, truth))


@pytest.mark.parametrize(
    ("monitor", "values", "found"),
    [
        ("val/macro_f1", [0.3, 0.2, 0.1], (10, 0.3, 0.1)),
        ("val/macro_f1", [0.1, 0.3, 0.2], (20, 0.3, 0.2)),
        ("val/macro_f1", [0.1, 0.2, 0.3], None),
        ("val/macro_f1", [0.1, 0.3, 0.3], None),
        ("val/accuracy", [0.3, 0.2], (10, 0.3, 0.2)),
        ("val/loss", [0.3, 0.2], None),
        ("val/loss", [0.2, 0.3], (10, 0.2, 0.3)),
        ("val/own", [0.3, 0.2], (10, 0.3, 0.2)),
        ("val/macro_f1", [0.3], None),
        ("val/macro_f1", [], None),
    ],
)
def test_a_training_that_got_worse_is_found_by_the_monitored_metric(monitor, values, found):
    history = pd.DataFrame({"step": [9, 19, 29][: len(values)], monitor: values})
    with_gaps = pd.concat([history, pd.DataFrame({"step": [35], "train/loss_step": [0.1]})])
    assert peaked_early(with_gaps, monitor) == found
    assert peaked_early(None, monitor) is None
    assert peaked_early(history, "val/absent") is None
