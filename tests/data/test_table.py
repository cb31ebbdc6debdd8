"""Groups, instance weights and the rarest label kept."""

import logging

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from conftest import refused
from counterpoise.data.sources.files import FileSource


def written(path, **columns):
    pd.DataFrame({"text": [f"text {row}" for row in range(len(next(iter(columns.values()))))], **columns}).to_csv(
        path, index=False
    )
    return str(path)


def train(file, **options):
    return FileSource(file, **options).load()["train"]


def test_groups_and_weights_are_those_of_the_rows_left(tmp_path):
    file = written(tmp_path / "a.csv", label=["x", "", "y", "x"], who=["b", "c", " a", "b"], w=["1", "-7", " .5", "0"])
    split = train(file, group="who", weight="w")
    assert split.groups.to_pylist() == ["b", " a", "b"]
    assert split.groups.type == pa.string()
    assert split.group_numbers.tolist() == [0, 1, 0]
    assert split.weights.tolist() == [1, 0.5, 0]
    assert split.weights.dtype == np.float64
    without = train(file)
    assert (without.groups, without.group_numbers, without.weights) == (None, None, None)


def test_a_row_without_a_group_is_its_own_group(tmp_path, caplog):
    file = written(tmp_path / "a.csv", label=["x", "y", "x", "y"], who=["b", "", " ", "b"])
    numbers = train(file, group="who").group_numbers
    assert numbers[0] == numbers[3]
    assert len(set(numbers)) == 3
    assert caplog.messages == ["a.csv: rows without a group form a group each: rows 2, 3"]


def test_only_the_training_file_needs_groups_and_weights(tmp_path):
    file = written(tmp_path / "a.csv", label=["x", "y"], who=["1", "2"], w=[1, 2])
    test = written(tmp_path / "test.csv", label=["x", "y"])
    splits = FileSource(file, test=test, group="who", weight="w").load()
    assert (splits["test"].groups, splits["test"].weights) == (None, None)
    message = "test.csv has no column 'who'; it has 'text', 'label'."
    assert refused(FileSource(test, group="who")) == message


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "much", ""])
def test_an_invalid_weight_is_reported_with_its_row(tmp_path, value):
    file = written(tmp_path / "a.csv", label=["x", "y", "x"], w=["1", "2.5", value])
    message = (
        f"a.csv: row 3: column 'w' (data.weight) holds '{value}', which is neither 0 nor a number from 1e-15 to 1e+15"
    )
    assert refused(FileSource(file, weight="w")) == message


def test_invalid_weight_columns_are_refused(tmp_path):
    file = written(tmp_path / "a.csv", label=["x", "y"], w=["0", "0.0"])
    message = "a.csv: column 'w' (data.weight) is 0 in every row: set some weights above 0"
    assert refused(FileSource(file, weight="w")) == message
    frame = pd.DataFrame({"text": ["a", "b"], "label": ["x", "y"], "w": [[1], [2]], "v": [1.0, np.nan]})
    frame.to_parquet(tmp_path / "a.parquet")
    message = (
        "a.parquet: row 1: column 'w' (data.weight) holds [1], which is neither 0 nor a number from 1e-15 to 1e+15"
    )
    assert refused(FileSource(str(tmp_path / "a.parquet"), weight="w")) == message
    assert "row 2: column 'v' (data.weight) holds " in refused(FileSource(str(tmp_path / "a.parquet"), weight="v"))


def test_rows_of_rare_classes_are_left_out_of_every_split_and_counted(tmp_path, caplog):
    labels = ["x", "y", "z", "x", "x", "y"]
    file = written(tmp_path / "a.csv", label=labels, who=list("abcdef"), w=range(1, 7))
    test = written(tmp_path / "test.csv", label=["z", "x", "new"], who=list("ghi"))
    with caplog.at_level(logging.INFO):
        splits = FileSource(file, test=test, min_count=2, group="who", weight="w", id="who").load()
    kept = splits["train"]
    assert kept.labels.to_pylist() == ["x", "y", "x", "x", "y"]
    assert kept.rows.tolist() == [1, 2, 4, 5, 6]
    assert kept.texts.to_pylist() == ["text 0", "text 1", "text 3", "text 4", "text 5"]
    assert kept.ids.to_pylist() == kept.groups.to_pylist() == list("abdef")
    assert kept.weights.tolist() == [1, 2, 4, 5, 6]
    assert kept.dropped == {"with a label of fewer than 2 training rows": 1}
    # A label that training lacks altogether is not rare but unseen, which the data module tells of.
    assert splits["test"].labels.to_pylist() == ["x", "new"]
    assert caplog.messages == [f"{file}: removed labels with fewer than 2 training rows (data.min_count): 1"]


def test_rare_labels_are_removed_and_their_rows_stay(tmp_path):
    file = written(tmp_path / "a.csv", label=["x|y", "y|z", "", "z", "q"])
    test = written(tmp_path / "test.csv", label=["q|x", "q", "new|z"])
    splits = FileSource(file, test=test, min_count=2, separator="|").load()
    assert splits["train"].labels.to_pylist() == [["y"], ["y", "z"], [], ["z"], []]
    assert splits["test"].labels.to_pylist() == [[], [], ["new", "z"]]
    assert splits["train"].dropped == {}


def test_a_min_count_that_leaves_nothing_is_reported(tmp_path):
    file = written(tmp_path / "a.csv", label=["x", "y", "x"])
    message = f"data.min_count=3: no label of {file} has as many rows; the most frequent one has 2"
    assert refused(FileSource(file, min_count=3)) == message
    assert refused(FileSource(file, min_count=3, separator="|")) == message
    message = "data.min_count=0: use a whole number of 1 or more; 1 keeps every label"
    assert refused(FileSource(file, min_count=0)) == message
    test = written(tmp_path / "test.csv", label=["y", "y"])
    assert refused(FileSource(file, test=test, min_count=2)) == f"data.min_count=2 leaves no row of {test}"
