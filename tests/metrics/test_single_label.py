import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
)

from counterpoise.errors import UserError
from counterpoise.metrics.buckets import buckets
from counterpoise.metrics.class_counts import ClassCounts
from counterpoise.metrics.single_label import per_class
from scores import confusion_counts, single_label_scores

pytestmark = pytest.mark.filterwarnings("ignore:A single label was found")

# Of 4 a, 3 are right and one is called b; of 2 b, 1 is right and one is called c; the split holds no c.
CONFUSION = np.array([[3, 1, 0], [0, 1, 1], [0, 0, 0]])
COUNTS = np.array([200, 30, 5])


def test_a_three_class_example_worked_by_hand():
    result = scores_of(CONFUSION, COUNTS)
    assert result == pytest.approx(
        {
            "accuracy": 4 / 6,
            "micro_f1": 4 / 6,
            "balanced_accuracy": (3 / 4 + 1 / 2) / 2,
            "macro_recall": (3 / 4 + 1 / 2) / 2,
            "macro_precision": (1 + 1 / 2) / 2,
            "macro_f1": (6 / 7 + 1 / 2) / 2,
            "macro_f1_all": (6 / 7 + 1 / 2) / 3,
            "weighted_precision": (4 * 1 + 2 * 1 / 2) / 6,
            "weighted_recall": 4 / 6,
            "weighted_f1": (4 * 6 / 7 + 2 * 1 / 2) / 6,
            # covariance 6*4 - (4*3 + 2*2), spreads 36 - (16 + 4) and 36 - (9 + 4 + 1)
            "mcc": 8 / np.sqrt(16 * 22),
            "worst_recall": 1 / 2,
            "head_recall": 3 / 4,
            "medium_recall": 1 / 2,
            "head_f1": 6 / 7,
            "medium_f1": 1 / 2,
            "supported_classes": 2,
            "classes": 3,
            "majority_accuracy": 4 / 6,
            "majority_macro_f1": (2 * 4 / (6 + 4)) / 2,
        }
    )
    assert {type(value) for value in result.values()} == {float}


def test_per_class_is_nan_for_an_absent_class():
    table = per_class_of(CONFUSION, COUNTS)
    assert list(table.columns) == ["train_count", "test_count", "precision", "recall", "f1"]
    assert table.test_count.tolist() == [4, 2, 0]
    np.testing.assert_allclose(table.precision, [1, 1 / 2, 0])
    np.testing.assert_allclose(table.recall, [3 / 4, 1 / 2, np.nan])
    np.testing.assert_allclose(table.f1, [6 / 7, 1 / 2, np.nan])


def test_a_supported_class_that_is_never_predicted_has_precision_0_and_an_untouched_class_nan():
    table = per_class_of(np.array([[5, 0, 0], [2, 0, 0], [0, 0, 0]]), COUNTS)
    np.testing.assert_array_equal(table.precision, [5 / 7, 0, np.nan])
    assert table.f1[1] == 0


def test_a_bucket_without_supported_classes_is_left_out():
    assert "tail_recall" not in scores_of(CONFUSION, COUNTS)


def test_a_predicted_but_absent_class_does_not_count_unlike_in_scikit_learn():
    truth, prediction = as_labels(CONFUSION)
    assert f1_score(truth, prediction, average="macro", zero_division=0) == pytest.approx((6 / 7 + 1 / 2) / 3)
    assert scores_of(CONFUSION, COUNTS)["macro_f1"] == pytest.approx((6 / 7 + 1 / 2) / 2)


@pytest.mark.parametrize("classes", [2, 5, 52])
def test_a_random_confusion_matrix_matches_scikit_learn(classes):
    rng = np.random.default_rng(classes)
    confusion = rng.poisson(0.7, (classes, classes)) + np.diag(rng.integers(0, 40, classes))
    confusion[0] = 0  # absent
    confusion[:, -1] = 0  # never predicted
    confusion[1, 0] = confusion[-1, 0] = 3
    agrees_with_scikit_learn(confusion)


@given(st.integers(1, 6).flatmap(lambda c: arrays(np.int64, (c, c), elements=st.integers(0, 9))))
def test_any_confusion_matrix_matches_scikit_learn(confusion):
    if confusion.sum():
        agrees_with_scikit_learn(confusion)


def test_a_split_of_a_single_class_has_mcc_0():
    result = scores_of(np.array([[0, 0], [1, 3]]), np.array([10, 30]))
    assert result["accuracy"] == result["balanced_accuracy"] == result["majority_macro_f1"] - 0.25 == 0.75
    assert result["mcc"] == 0
    assert result["majority_accuracy"] == 1


def test_a_majority_class_that_is_absent_scores_0():
    result = scores_of(np.array([[0, 0], [1, 3]]), np.array([30, 10]))
    assert result["majority_accuracy"] == result["majority_macro_f1"] == 0


@given(arrays(np.int64, (4, 4), elements=st.integers(0, 9)), arrays(np.int64, 4, elements=st.integers(0, 300)))
def test_the_majority_baseline_is_the_score_of_its_own_confusion_matrix(confusion, counts):
    if confusion.sum() == 0:
        return
    baseline = np.zeros_like(confusion)
    baseline[:, counts.argmax()] = confusion.sum(axis=1)
    result, expected = scores_of(confusion, counts), scores_of(baseline, counts)
    assert result["majority_accuracy"] == expected["accuracy"]
    assert result["majority_macro_f1"] == expected["macro_f1"]


def test_class_counts_are_those_of_the_confusion_matrix():
    truth, predicted = np.random.default_rng(0).integers(0, 6, (2, 80))
    expected = confusion_counts(confusion_matrix(truth, predicted, labels=range(7)))
    for counted, of_matrix in zip(ClassCounts.of(truth, predicted, 7), expected, strict=True):
        np.testing.assert_array_equal(counted, of_matrix)


def test_counts_of_other_classes_are_rejected():
    with pytest.raises(ValueError, match="3 classes"):
        per_class(ClassCounts.of(np.array([0]), np.array([1]), 2), COUNTS)


def test_mcc_does_not_overflow_on_billions_of_examples():
    confusion = np.array([[3, 1], [1, 3]]) * 10**9
    assert scores_of(confusion, np.array([1, 1]))["mcc"] == pytest.approx(0.5)


def test_the_bounds_of_the_buckets_are_those_of_the_long_tail_literature():
    counts = np.array([0, 19, 20, 100, 101, 5000])
    assert buckets(counts).tolist() == ["tail", "tail", "medium", "medium", "head", "head"]
    assert buckets(counts, tail_max=5, head_min=20).tolist() == [
        "tail",
        "medium",
        "head",
        "head",
        "head",
        "head",
    ]


def test_scores_take_the_same_bounds():
    result = scores_of(CONFUSION, COUNTS, tail_max=31, head_min=500)
    assert (result["medium_recall"], result["tail_recall"]) == (3 / 4, 1 / 2)
    assert "head_recall" not in result


def test_overlapping_bounds_are_rejected():
    with pytest.raises(UserError, match="tail_max=50"):
        buckets(COUNTS, tail_max=50, head_min=10)


def test_a_split_without_examples_is_rejected():
    with pytest.raises(ValueError, match="no example"):
        scores_of(np.zeros((3, 3), dtype=int), COUNTS)


def scores_of(confusion, counts, **bounds):
    return single_label_scores(confusion_counts(confusion), counts, **bounds)


def per_class_of(confusion, counts):
    return per_class(confusion_counts(confusion), counts)


def as_labels(confusion):
    truth, prediction = np.nonzero(confusion)
    times = confusion[truth, prediction]
    return np.repeat(truth, times), np.repeat(prediction, times)


def agrees_with_scikit_learn(confusion):
    truth, prediction = as_labels(confusion)
    supported = np.unique(truth)
    result = scores_of(confusion, np.arange(1, len(confusion) + 1))
    expected = {"accuracy": accuracy_score(truth, prediction), "mcc": matthews_corrcoef(truth, prediction)}
    expected["micro_f1"] = f1_score(truth, prediction, average="micro", zero_division=0)
    if len(supported) == len(np.union1d(truth, prediction)):  # otherwise scikit-learn warns
        expected["balanced_accuracy"] = balanced_accuracy_score(truth, prediction)
    for average in ("macro", "weighted"):
        triple = precision_recall_fscore_support(truth, prediction, labels=supported, average=average, zero_division=0)
        expected |= dict(zip((f"{average}_{m}" for m in ("precision", "recall", "f1")), triple[:3], strict=True))
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    each = precision_recall_fscore_support(truth, prediction, labels=supported, zero_division=0)
    table = per_class_of(confusion, np.ones(len(confusion))).loc[supported]
    for name, values in zip(("precision", "recall", "f1", "test_count"), each, strict=True):
        np.testing.assert_allclose(table[name], values, atol=1e-12)
