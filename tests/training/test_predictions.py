import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from counterpoise.training.predictions import most_probable_class, write_multilabel_predictions, write_predictions

RNG = np.random.default_rng(0)


def names(count):
    return [f"class {i}" for i in range(count)]


def test_each_of_few_classes_has_a_probability_column(tmp_path):
    path = tmp_path / "deep" / "predictions.parquet"
    logits = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32)
    write_predictions(path, ["a", "b"], ["x", "y", "z"], np.array([0, 1]), logits)
    table = pd.read_parquet(path)
    assert list(table.columns) == ["id", "label", "prediction", "probability", "p:x", "p:y", "p:z"]
    assert table.id.tolist() == ["a", "b"]
    assert table.label.tolist() == ["x", "y"]
    assert table.prediction.tolist() == ["x", "z"]
    powers = np.exp(logits.astype(float))
    np.testing.assert_allclose(table[["p:x", "p:y", "p:z"]], powers / powers.sum(axis=1, keepdims=True), rtol=1e-6)
    assert table.probability.dtype == np.float32
    assert table.probability.tolist() == [table["p:x"][0], table["p:z"][1]]


def test_the_most_probable_of_many_classes_are_listed(tmp_path):
    logits = RNG.normal(size=(7, 30))
    write_predictions(tmp_path / "p.parquet", names(7), names(30), np.arange(7), logits, top_k=4)
    table = pd.read_parquet(tmp_path / "p.parquet")
    assert list(table.columns) == [
        "id",
        "label",
        "prediction",
        "probability",
        "top_labels",
        "top_probabilities",
    ]
    for row, expected in zip(table.itertuples(), np.argsort(-logits, axis=1)[:, :4], strict=True):
        assert list(row.top_labels) == [f"class {i}" for i in expected]
        assert row.prediction == row.top_labels[0]
        assert row.probability == row.top_probabilities[0]
        assert (np.diff(row.top_probabilities) <= 0).all()


def test_full_up_to_sets_the_number_of_classes_with_own_columns(tmp_path):
    write_predictions(tmp_path / "p.parquet", ["a"], names(3), None, np.zeros((1, 3)), full_up_to=2, top_k=5)
    assert list(pd.read_parquet(tmp_path / "p.parquet").top_labels[0]) == names(3)


def test_ties_are_in_the_order_of_the_vocabulary(tmp_path):
    write_predictions(tmp_path / "p.parquet", ["a"], names(25), None, np.zeros((1, 25)), top_k=2)
    table = pd.read_parquet(tmp_path / "p.parquet")
    assert table.prediction[0] == "class 0"
    assert list(table.top_labels[0]) == ["class 0", "class 1"]


def test_an_unknown_true_class_is_null(tmp_path):
    write_predictions(tmp_path / "none.parquet", ["a", "b"], names(2), None, np.eye(2))
    assert pd.read_parquet(tmp_path / "none.parquet").label.isna().all()
    write_predictions(tmp_path / "some.parquet", ["a", "b"], names(2), np.array([-1, 1]), np.eye(2))
    assert pd.read_parquet(tmp_path / "some.parquet").label.isna().tolist() == [True, False]


def test_huge_half_precision_logits_give_probabilities(tmp_path):
    logits = np.array([[60000.0, -60000.0]], dtype=np.float16)
    write_predictions(tmp_path / "p.parquet", ["a"], names(2), None, logits)
    assert pd.read_parquet(tmp_path / "p.parquet")[["p:class 0", "p:class 1"]].to_numpy().tolist() == [[1, 0]]


@pytest.mark.parametrize(("rows", "classes"), [(0, 3), (0, 30), (40_000, 2), (40_000, 21)])
def test_rows_keep_their_order_across_row_groups(tmp_path, rows, classes):
    truth = RNG.integers(0, classes, rows)
    logits = np.eye(classes, dtype=np.float32)[truth]
    write_predictions(tmp_path / "p.parquet", [str(i) for i in range(rows)], names(classes), truth, logits)
    table = pd.read_parquet(tmp_path / "p.parquet")
    assert table.id.tolist() == [str(i) for i in range(rows)]
    assert table.prediction.tolist() == table.label.tolist() == [f"class {i}" for i in truth]


def test_a_failed_write_keeps_the_old_file_and_removes_the_temporary_one(tmp_path):
    path = tmp_path / "p.parquet"
    write_predictions(path, ["a"], names(2), None, np.eye(2)[:1])
    old = path.read_bytes()
    with pytest.raises(IndexError):
        write_predictions(path, ["a"], names(2), np.array([7]), np.eye(2)[:1])
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_mismatched_lengths_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected logits \[2, 3\]"):
        write_predictions(tmp_path / "p.parquet", ["a", "b"], names(3), None, np.zeros((2, 4)))


def test_multi_label_predictions_are_lists_sorted_by_probability(tmp_path):
    path = tmp_path / "deep" / "predictions.parquet"
    logits = np.array([[2.0, 0.0, 3.0], [-1.0, -3.0, -2.0], [-1.0, 4.0, 4.0]], dtype=np.float32)
    decided = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 1]], bool)
    targets = sparse.csr_matrix(np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0]], bool))
    write_multilabel_predictions(path, ["a", "b", "c"], ["x", "y", "z"], targets, logits, decided, top_k=2)
    table = pd.read_parquet(path)
    assert list(table.columns) == ["id", "labels", "predictions", "probabilities", "top_labels", "top_probabilities"]
    assert table.id.tolist() == ["a", "b", "c"]
    assert [list(row) for row in table.labels] == [["x", "y"], [], ["y"]]
    assert [list(row) for row in table.predictions] == [["z", "x"], [], ["y", "z"]]
    assert [list(row) for row in table.top_labels] == [["z", "x"], ["x", "z"], ["y", "z"]]
    assert table.top_probabilities[1].dtype == np.float32
    np.testing.assert_allclose(table.top_probabilities[1], 1 / (1 + np.exp([1.0, 2.0])), rtol=1e-6)
    np.testing.assert_array_equal(table.probabilities[0], table.top_probabilities[0])
    assert [len(row) for row in table.probabilities] == [2, 0, 2]


def test_the_top_labels_equal_those_of_a_stable_full_sort(tmp_path):
    logits = RNG.integers(0, 4, (50, 30)).astype(np.float16)
    write_multilabel_predictions(tmp_path / "p.parquet", names(50), names(30), None, logits, logits > 2, top_k=7)
    table = pd.read_parquet(tmp_path / "p.parquet")
    order = np.argsort(-logits, axis=1, kind="stable")
    assert [list(row) for row in table.top_labels] == [[f"class {i}" for i in row] for row in order[:, :7]]
    above = [[f"class {i}" for i in row if values[i] > 2] for row, values in zip(order, logits, strict=True)]
    assert [list(row) for row in table.predictions] == above


def test_unknown_labels_are_null_and_no_labels_are_an_empty_list(tmp_path):
    none = np.zeros((2, 3), bool)
    write_multilabel_predictions(tmp_path / "null.parquet", ["a", "b"], names(3), None, np.zeros((2, 3)), none)
    assert pd.read_parquet(tmp_path / "null.parquet").labels.isna().all()
    empty = sparse.csr_matrix(none)
    write_multilabel_predictions(tmp_path / "empty.parquet", ["a", "b"], names(3), empty, np.zeros((2, 3)), none)
    assert [list(row) for row in pd.read_parquet(tmp_path / "empty.parquet").labels] == [[], []]


@pytest.mark.parametrize(("rows", "labels"), [(0, 3), (40_000, 4), (300, 40_000)])
def test_multi_label_rows_keep_their_order_across_row_groups(tmp_path, rows, labels):
    own = RNG.integers(0, labels, rows)
    targets = sparse.csr_matrix((np.ones(rows, bool), own, np.arange(rows + 1)), shape=(rows, labels))
    decided = targets.toarray()
    path = tmp_path / "p.parquet"
    write_multilabel_predictions(path, range(rows), names(labels), targets, decided.astype(np.float32), decided, 1)
    table = pd.read_parquet(path)
    assert table.id.tolist() == [str(i) for i in range(rows)]
    for column in (table.labels, table.predictions, table.top_labels):
        assert [list(row) for row in column] == [[f"class {i}"] for i in own]


def test_all_labels_are_listed_if_there_are_fewer_than_top_k(tmp_path):
    logits = np.array([[1.0, 2.0], [np.inf, -np.inf]])
    write_multilabel_predictions(tmp_path / "p.parquet", ["a", "b"], names(2), None, logits, logits > 0, top_k=5)
    table = pd.read_parquet(tmp_path / "p.parquet")
    assert [list(row) for row in table.top_labels] == [["class 1", "class 0"], ["class 0", "class 1"]]
    assert table.top_probabilities[1].tolist() == [1, 0]


def test_a_failed_multi_label_write_keeps_the_old_file_and_removes_the_temporary_one(tmp_path):
    path, cells = tmp_path / "p.parquet", np.eye(2)
    write_multilabel_predictions(path, ["a", "b"], names(2), None, cells, cells > 0)
    old = path.read_bytes()
    targets = sparse.csr_matrix(cells > 0)
    targets.indices = targets.indices + 7
    with pytest.raises(IndexError):
        write_multilabel_predictions(path, ["a", "b"], names(2), targets, cells, cells > 0)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_mismatched_multi_label_shapes_are_refused(tmp_path):
    cells, targets = np.zeros((2, 3)), sparse.csr_matrix((2, 2), dtype=bool)
    with pytest.raises(ValueError, match=r"expected logits, decided and targets \[2, 3\].*\(2, 2\)"):
        write_multilabel_predictions(tmp_path / "p.parquet", ["a", "b"], names(3), targets, cells, cells > 0)


def test_calibrated_probabilities_do_not_change_the_predictions(tmp_path):
    logits, calibrated = np.array([[2.0, 1.0], [0.0, 1.0]]), np.log([[0.25, 0.75], [0.5, 0.5]])
    write_predictions(tmp_path / "p.parquet", ["a", "b"], ["x", "y"], None, logits, calibrated=calibrated)
    table = pd.read_parquet(tmp_path / "p.parquet")
    assert table.prediction.tolist() == ["x", "y"]
    np.testing.assert_allclose(table.probability, [0.25, 0.5])
    np.testing.assert_allclose(table[["p:x", "p:y"]], [[0.25, 0.75], [0.5, 0.5]])
    path = tmp_path / "lists.parquet"
    write_predictions(path, ["a", "b"], ["x", "y"], None, logits, full_up_to=1, calibrated=calibrated)
    table = pd.read_parquet(path)
    assert table.prediction.tolist() == ["x", "y"]
    assert list(table.top_labels[0]) == ["y", "x"]
    np.testing.assert_allclose(table.top_probabilities[0], [0.75, 0.25])


@pytest.mark.parametrize("classes", [3, 30])
def test_the_class_of_least_expected_cost_has_its_own_column(tmp_path, classes):
    rows = 20_000
    logits, cheapest = RNG.normal(size=(rows, classes)).astype(np.float32), RNG.integers(0, classes, rows)
    without, path = tmp_path / "without.parquet", tmp_path / "with.parquet"
    write_predictions(without, names(rows), names(classes), None, logits)
    write_predictions(path, names(rows), names(classes), None, logits, least_cost=cheapest)
    table = pd.read_parquet(path)
    assert list(table.columns[:5]) == ["id", "label", "prediction", "probability", "least_cost"]
    assert table.least_cost.tolist() == [f"class {i}" for i in cheapest]
    pd.testing.assert_frame_equal(table.drop(columns="least_cost"), pd.read_parquet(without))


def test_mismatched_calibrated_logits_and_costs_are_refused(tmp_path):
    given = (tmp_path / "p.parquet", ["a", "b"], names(3), None, np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"expected logits \[2, 3\].*\(2, 4\)"):
        write_predictions(*given, calibrated=np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"expected least_cost \[2\]"):
        write_predictions(*given, least_cost=np.zeros(3, int))


@pytest.mark.parametrize("classes", [2, 30])
def test_the_most_probable_class_is_the_decided_one_among_equals(classes):
    scores = RNG.integers(0, 3, (500, classes)) / 4
    decided = RNG.integers(0, classes, 500)
    found = most_probable_class(scores, decided)
    rows = np.arange(500)
    np.testing.assert_array_equal(scores[rows, found], scores.max(axis=1))
    tied = scores[rows, decided] == scores.max(axis=1)
    np.testing.assert_array_equal(found[tied], decided[tied])
