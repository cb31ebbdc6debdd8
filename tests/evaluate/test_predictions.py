import numpy as np
import pandas as pd
import pytest

from counterpoise.evaluate.predictions import write_predictions

RNG = np.random.default_rng(0)


def names(count):
    return [f"class {i}" for i in range(count)]


def test_few_classes_get_a_probability_column_each(tmp_path):
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


def test_many_classes_get_the_most_probable_ones_as_lists(tmp_path):
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


def test_the_bound_between_columns_and_lists_can_be_chosen(tmp_path):
    write_predictions(tmp_path / "p.parquet", ["a"], names(3), None, np.zeros((1, 3)), full_up_to=2, top_k=5)
    assert list(pd.read_parquet(tmp_path / "p.parquet").top_labels[0]) == names(3)


def test_equal_probabilities_go_to_the_first_of_the_vocabulary(tmp_path):
    write_predictions(tmp_path / "p.parquet", ["a"], names(25), None, np.zeros((1, 25)), top_k=2)
    table = pd.read_parquet(tmp_path / "p.parquet")
    assert table.prediction[0] == "class 0"
    assert list(table.top_labels[0]) == ["class 0", "class 1"]


def test_an_unknown_truth_is_null(tmp_path):
    write_predictions(tmp_path / "none.parquet", ["a", "b"], names(2), None, np.eye(2))
    assert pd.read_parquet(tmp_path / "none.parquet").label.isna().all()
    write_predictions(tmp_path / "some.parquet", ["a", "b"], names(2), np.array([-1, 1]), np.eye(2))
    assert pd.read_parquet(tmp_path / "some.parquet").label.isna().tolist() == [True, False]


def test_huge_half_precision_logits_give_probabilities(tmp_path):
    logits = np.array([[60000.0, -60000.0]], dtype=np.float16)
    write_predictions(tmp_path / "p.parquet", ["a"], names(2), None, logits)
    assert pd.read_parquet(tmp_path / "p.parquet")[["p:class 0", "p:class 1"]].to_numpy().tolist() == [[1, 0]]


@pytest.mark.parametrize(("rows", "classes"), [(0, 3), (0, 30), (40_000, 2), (40_000, 21)])
def test_any_number_of_rows_keeps_its_order(tmp_path, rows, classes):
    truth = RNG.integers(0, classes, rows)
    logits = np.eye(classes, dtype=np.float32)[truth]
    write_predictions(tmp_path / "p.parquet", [str(i) for i in range(rows)], names(classes), truth, logits)
    table = pd.read_parquet(tmp_path / "p.parquet")
    assert table.id.tolist() == [str(i) for i in range(rows)]
    assert table.prediction.tolist() == table.label.tolist() == [f"class {i}" for i in truth]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "p.parquet"
    write_predictions(path, ["a"], names(2), None, np.eye(2)[:1])
    old = path.read_bytes()
    with pytest.raises(IndexError):
        write_predictions(path, ["a"], names(2), np.array([7]), np.eye(2)[:1])
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_lengths_that_do_not_belong_together_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected logits \[2, 3\]"):
        write_predictions(tmp_path / "p.parquet", ["a", "b"], names(3), None, np.zeros((2, 4)))
