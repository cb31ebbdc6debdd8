import tracemalloc
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import (
    average_precision_score,
    label_ranking_average_precision_score,
    ndcg_score,
    precision_recall_fscore_support,
)

from counterpoise.metrics.buckets import buckets
from counterpoise.metrics.multi_label import per_label
from counterpoise.metrics.ranking import average_precision
from scores import multi_label_scores as scores

COUNTS = np.array([200, 30, 5, 5])
# Text 0 holds a and b, text 1 a, text 2 none; no text holds d. Predicted: a, then a and d, then b.
TARGETS = sparse.csr_matrix(np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]], bool))
DECIDED = np.array([[1, 0, 0, 0], [1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]], bool)
LOGITS = np.array([[3, 1, 2, 0], [1, 0, -1, 1], [0, 2, -2, 0], [1, 0, -3, -4]], np.float32)


def test_a_four_label_example_worked_by_hand():
    result = scores(DECIDED, LOGITS, TARGETS, COUNTS)
    log3 = np.log2(3)
    assert result == pytest.approx(
        {
            # 4 true cells, 4 predicted, 2 right
            "micro_precision": 2 / 4,
            "micro_recall": 2 / 4,
            "micro_f1": 2 / 4,
            # a is right throughout; b is predicted for the wrong text; c never; d has no positive
            "macro_precision": 1 / 3,
            "macro_recall": 1 / 3,
            "macro_f1": 1 / 3,
            "macro_f1_all": 1 / 4,
            # texts 0, 1 and 3; text 2 has no label
            "sample_precision": (1 + 1 / 2 + 0) / 3,
            "sample_recall": (1 / 2 + 1 + 0) / 3,
            "sample_f1": (2 / 3 + 2 / 3 + 0) / 3,
            # a: 3 and 1, and the 1 of text 3, against 0: 1/1 and 2/3. b: 1 after 2. c: -3 is last.
            "map": ((1 + 2 / 3) / 2 + 1 / 2 + 1 / 4) / 3,
            "subset_accuracy": 0,
            # text 0: a first, b third; text 1: a shares the first two places; text 3: c third
            "recall_at_1": (1 / 2 + 1 / 2 + 0) / 3,
            "recall_at_3": 1,
            "precision_at_1": (1 + 1 / 2 + 0) / 3,
            "precision_at_3": (2 / 3 + 1 / 3 + 1 / 3) / 3,
            "ndcg_at_1": (1 + 1 / 2 + 0) / 3,
            "ndcg_at_3": ((1 + 1 / 2) / (1 + 1 / log3) + (1 + 1 / log3) / 2 + 1 / 2) / 3,
            "lrap": ((1 + 2 / 3) / 2 + 1 / 2 + 1 / 3) / 3,
            "head_recall": 1,
            "head_precision": 1,
            "head_f1": 1,
            "head_ap": (1 + 2 / 3) / 2,
            "medium_recall": 0,
            "medium_precision": 0,
            "medium_f1": 0,
            "medium_ap": 1 / 2,
            "tail_recall": 0,
            "tail_precision": 0,
            "tail_f1": 0,
            "tail_ap": 1 / 4,
            "supported_labels": 3,
            "labels": 4,
            # one label for each text: a, which two of four have
            "constant_micro_f1": 2 * 2 / (4 + 4),
            "constant_macro_f1": 2 * 2 / (2 + 4) / 3,
            "labels_per_text": 4 / 4,
            "predicted_per_text": 4 / 4,
        }
    )
    assert {type(value) for value in result.values()} == {float}


def test_per_label_is_nan_without_positives_and_0_without_predictions():
    table = per_label(DECIDED, LOGITS, TARGETS, COUNTS)
    assert list(table.columns) == ["train_count", "test_count", "precision", "recall", "f1", "average_precision"]
    assert table.train_count.tolist() == COUNTS.tolist()
    assert table.test_count.tolist() == [2, 1, 1, 0]
    np.testing.assert_array_equal(table.precision, [1, 0, 0, 0])
    np.testing.assert_array_equal(table.recall, [1, 0, 0, np.nan])
    np.testing.assert_array_equal(table.f1, [1, 0, 0, np.nan])
    np.testing.assert_allclose(table.average_precision, [5 / 6, 1 / 2, 1 / 4, np.nan])


def test_a_label_without_positives_that_is_not_predicted_has_no_precision():
    assert np.isnan(per_label(np.zeros((4, 4), bool), LOGITS, TARGETS, COUNTS).precision[3])


def random_split(rng, texts, labels, kinds=None):
    """Return decided, logits, targets and counts; with `kinds`, logits take no more than so many values."""
    dense = rng.random((texts, labels)) < rng.random(labels) ** 3
    dense[rng.random(texts) < 0.2] = False
    logits = rng.normal(size=(texts, labels)) + dense if kinds is None else rng.integers(0, kinds, (texts, labels))
    return rng.random((texts, labels)) < 0.3, logits.astype(np.float32), dense, rng.integers(0, 300, labels)


def agrees_with_scikit_learn(decided, logits, dense, counts):
    targets = sparse.csr_matrix(dense)
    result, table = scores(decided, logits, targets, counts), per_label(decided, logits, targets, counts)
    supported, labelled = dense.any(axis=0), dense.any(axis=1)
    measures, expected = ("precision", "recall", "f1"), {}
    each = precision_recall_fscore_support(dense, decided, average=None, zero_division=0)
    for name, values in zip(measures, each, strict=False):
        np.testing.assert_allclose(table[name][supported], values[supported], atol=1e-12)
        expected[f"macro_{name}"] = values[supported].mean()
        for bucket in ("head", "medium", "tail"):
            members = supported & (buckets(counts) == bucket)
            assert (f"{bucket}_{name}" in result) == members.any()
            if members.any():
                expected[f"{bucket}_{name}"] = values[members].mean()
    expected["macro_f1_all"] = each[2][supported].sum() / len(counts)
    micro = precision_recall_fscore_support(dense, decided, average="micro", zero_division=0)
    expected |= {f"micro_{name}": value for name, value in zip(measures, micro, strict=False)}
    sample = precision_recall_fscore_support(dense[labelled], decided[labelled], average="samples", zero_division=0)
    expected |= {f"sample_{name}": value for name, value in zip(measures, sample, strict=False)}

    double = logits.astype(np.float64)
    precisions = [average_precision_score(dense[:, c], double[:, c]) for c in np.flatnonzero(supported)]
    np.testing.assert_allclose(table.average_precision[supported], precisions, atol=1e-12)
    expected["map"] = np.mean(precisions)
    expected["lrap"] = label_ranking_average_precision_score(dense[labelled], double[labelled])
    for k in (1, 3, 5):
        assert (f"ndcg_at_{k}" in result) == (k <= len(counts))
        if 1 < len(counts) >= k:
            expected[f"ndcg_at_{k}"] = ndcg_score(dense[labelled], double[labelled], k=k)
    expected["subset_accuracy"] = (decided == dense).all(axis=1).mean()
    expected["labels_per_text"], expected["predicted_per_text"] = dense.sum() / len(dense), decided.sum() / len(dense)
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize(("texts", "labels"), [(40, 3), (200, 30), (60, 200)])
@pytest.mark.parametrize("kinds", [None, 4])
def test_scores_match_scikit_learn_with_and_without_ties(texts, labels, kinds):
    agrees_with_scikit_learn(*random_split(np.random.default_rng(texts), texts, labels, kinds))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning", "ignore:No positive class found")
@given(st.integers(1, 6), st.integers(2, 7), st.integers(1, 4), st.integers(0, 2**32))
def test_any_small_split_matches_scikit_learn(texts, labels, kinds, seed):
    decided, logits, dense, counts = random_split(np.random.default_rng(seed), texts, labels, kinds)
    if dense.any():
        agrees_with_scikit_learn(decided, logits, dense, counts)


@given(st.integers(1, 5), st.integers(0, 2**32))
def test_scores_at_k_average_over_the_orders_of_ties(labels, seed):
    rng = np.random.default_rng(seed)
    dense = rng.random((1, labels)) < 0.5
    if not dense.any():
        return
    logits = rng.integers(0, 2, (1, labels)).astype(np.float32)
    result = scores(dense, logits, sparse.csr_matrix(dense), np.ones(labels))
    for k in (k for k in (1, 3, 5) if k <= labels):
        orders = (order for order in permutations(range(labels)) if (np.diff(logits[0, list(order)]) <= 0).all())
        true_positives = [dense[0, list(order[:k])].sum() for order in orders]
        assert result[f"recall_at_{k}"] == pytest.approx(np.mean(true_positives) / dense.sum())
        assert result[f"precision_at_{k}"] == pytest.approx(np.mean(true_positives) / k)


def test_the_block_size_does_not_change_the_result(monkeypatch):
    decided, logits, dense, counts = random_split(np.random.default_rng(3), 50, 40, kinds=9)
    whole = scores(decided, logits, sparse.csr_matrix(dense), counts)
    monkeypatch.setattr("counterpoise.metrics.ranking._BLOCK_CELLS", 130)
    assert scores(decided, logits, sparse.csr_matrix(dense), counts) == whole


def test_scores_depend_only_on_the_order_of_the_logits():
    decided, logits, dense, counts = random_split(np.random.default_rng(4), 50, 12)
    targets = sparse.csr_matrix(dense)
    assert scores(decided, logits, targets, counts) == scores(decided, np.arctan(logits / 4) - 7, targets, counts)
    halves = logits.astype(np.float16)
    assert scores(decided, halves, targets, counts) == scores(decided, halves.astype(float), targets, counts)


def test_perfect_logits_and_decisions_score_1_throughout():
    _, _, dense, counts = random_split(np.random.default_rng(5), 60, 8)
    result = scores(dense, np.where(dense, 50.0, -50.0), sparse.csr_matrix(dense), counts)
    ones = [name for name in result if name.startswith(("micro_", "macro_", "sample_", "head_", "tail_", "ndcg_"))]
    ones = [*(set(ones) - {"macro_f1_all"}), "map", "lrap", "subset_accuracy"]
    assert {name: result[name] for name in ones} == pytest.approx(dict.fromkeys(ones, 1.0), abs=1e-12)


def test_texts_without_labels_change_only_micro_scores_and_subset_accuracy():
    decided, logits, dense, counts = random_split(np.random.default_rng(6), 30, 6)
    more = sparse.csr_matrix(np.vstack([dense, np.zeros((10, 6), bool)]))
    silent, loud = np.zeros((10, 6), bool), np.ones((10, 6), bool)
    low = np.full((10, 6), logits.min() - 1)  # below all: the rankings within labels stay as they are
    before = scores(decided, logits, sparse.csr_matrix(dense), counts)
    quiet = scores(np.vstack([decided, silent]), np.vstack([logits, low]), more, counts)
    noisy = scores(np.vstack([decided, loud]), np.vstack([logits, low]), more, counts)
    alike = [name for name in before if name.startswith(("sample_", "recall_", "precision_", "ndcg_", "lrap", "map"))]
    assert {n: before[n] for n in alike} == {n: quiet[n] for n in alike} == {n: noisy[n] for n in alike}
    assert quiet["micro_f1"] == before["micro_f1"] > noisy["micro_f1"]
    assert quiet["subset_accuracy"] * 40 == pytest.approx(before["subset_accuracy"] * 30 + 10)
    assert noisy["subset_accuracy"] * 40 == pytest.approx(before["subset_accuracy"] * 30)


def test_a_split_without_positives_has_nan_means():
    result = scores(DECIDED, LOGITS, sparse.csr_matrix((4, 4), dtype=bool), COUNTS)
    undefined = {name for name, value in result.items() if np.isnan(value)}
    assert undefined >= {"micro_recall", "macro_f1", "macro_f1_all", "map", "sample_f1", "lrap", "ndcg_at_3"}
    assert (result["micro_precision"], result["subset_accuracy"], result["supported_labels"]) == (0, 1 / 4, 0)
    assert "head_f1" not in result


def test_a_nan_logit_makes_only_the_ranking_scores_nan():
    broken = LOGITS.copy()
    broken[0, 0] = np.nan
    result, whole = (scores(DECIDED, logits, TARGETS, COUNTS) for logits in (broken, LOGITS))
    assert result.keys() == whole.keys()
    undefined = {name for name, value in result.items() if np.isnan(value)}
    assert undefined == {name for name in result if name.endswith("_ap") or "_at_" in name or name in ("map", "lrap")}


def test_infinite_logits_are_ranked_first_and_last():
    logits = np.where(TARGETS.toarray(), np.inf, -np.inf)
    assert scores(DECIDED, logits, TARGETS, COUNTS)["map"] == 1


def test_inputs_are_not_modified():
    decided, logits, dense, counts = random_split(np.random.default_rng(7), 30, 20, kinds=5)
    targets = sparse.csr_matrix(dense)
    copies = decided.copy(), logits.copy(), counts.copy()
    scores(decided, logits, targets, counts)
    for value, copy in zip((decided, logits, counts), copies, strict=True):
        np.testing.assert_array_equal(value, copy)
    np.testing.assert_array_equal(targets.toarray(), dense)


def test_the_bounds_of_the_buckets_can_be_chosen():
    result = scores(DECIDED, LOGITS, TARGETS, COUNTS, tail_max=31, head_min=500)
    assert (result["medium_recall"], result["tail_ap"]) == (1, (1 / 2 + 1 / 4) / 2)
    assert "head_recall" not in result


def test_no_dense_copy_is_made():
    rng = np.random.default_rng(8)
    logits = rng.normal(size=(4000, 2500)).astype(np.float32)
    targets = sparse.random(4000, 2500, 0.002, "csr", rng=rng).astype(bool)
    decided = logits > 2.5
    tracemalloc.start()
    scores(decided, logits, targets, np.ones(2500))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < logits.nbytes / 2


def test_mismatched_shapes_are_rejected():
    for wrong in (
        (DECIDED[:3], LOGITS, TARGETS, COUNTS),
        (DECIDED, LOGITS[:, :3], TARGETS, COUNTS),
        (DECIDED, LOGITS, TARGETS[:3], COUNTS),
        (DECIDED, LOGITS, TARGETS, COUNTS[:3]),
    ):
        with pytest.raises(ValueError, match="expected decided, logits and targets"):
            per_label(*wrong)


def test_a_split_without_texts_is_rejected():
    with pytest.raises(ValueError, match="no example"):
        scores(np.zeros((0, 4), bool), np.zeros((0, 4)), sparse.csr_matrix((0, 4), dtype=bool), COUNTS)


def test_average_precision_of_ties_is_the_fraction_of_positives():
    dense = np.array([[1], [0], [0], [1], [0]], bool)
    assert average_precision(np.zeros((5, 1)), sparse.csr_matrix(dense)) == pytest.approx([2 / 5])
