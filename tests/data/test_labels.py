"""Multi-label data as users have it: lists, a field to split, columns of 0 and 1, datasets of the Hub."""

import json
import logging

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import refused
from counterpoise.data import readers
from counterpoise.data.sources.files import FileSource
from counterpoise.data.sources.hub import HubSource

LISTS = [["rain", "cold"], [], ["新闻"], None, ["cold", "😀", "a b"]]
SETS = [["rain", "cold"], [], ["新闻"], [], ["cold", "😀", "a b"]]


def as_file(path, labels, **more):
    """Writes texts with these labels in the format of the suffix."""
    columns = {"text": [f"text {row}" for row in range(len(labels))], "label": labels, **more}
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif path.suffix == ".csv":
        pd.DataFrame(columns).to_csv(path, index=False)
    else:
        rows = zip(*columns.values(), strict=True)
        path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    return str(path)


def train(file, **options):
    return FileSource(file, **{"max_dropped": 1} | options).load()["train"]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_an_empty_list_and_a_null_are_a_row_without_labels(tmp_path, suffix):
    split = train(as_file(tmp_path / f"a.{suffix}", LISTS))
    assert split.labels.to_pylist() == SETS
    assert split.labels.type == pa.list_(pa.string())
    assert isinstance(split.labels, pa.Array)
    assert (split.task, split.noun, split.dropped) == ("multi_label", "labels", {})
    assert split.rows.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("separator", ["|", ", ", ".*"])
def test_a_field_is_split_by_the_literal_separator(tmp_path, separator):
    fields = [separator.join(labels) for labels in SETS]
    for suffix in ("csv", "jsonl", "parquet"):
        split = train(as_file(tmp_path / f"a.{suffix}", fields), separator=separator)
        assert split.labels.to_pylist() == SETS


def test_whitespace_and_empty_pieces_between_separators_are_no_labels(tmp_path):
    split = train(as_file(tmp_path / "a.csv", [" a |b", "|", "a||", " \t", "b| \u3000"]), separator="|")
    assert split.labels.to_pylist() == [["a", "b"], [], ["a"], [], ["b"]]


def test_blank_and_null_entries_of_a_list_are_no_labels(tmp_path):
    split = train(as_file(tmp_path / "a.jsonl", [["", "a "], [None], ["b", None, " \n"]]))
    assert split.labels.to_pylist() == [["a"], [], ["b"]]


@pytest.mark.parametrize("values", [[[3, -1], [], [2**53 + 1]], [[3.0, -1], [], [2.0]], [[3], None, [1]]])
def test_lists_of_whole_numbers_become_text(tmp_path, values):
    expected = [[str(int(value)) for value in row or []] for row in values]
    for suffix in ("jsonl", "parquet"):
        assert train(as_file(tmp_path / f"a.{suffix}", values)).labels.to_pylist() == expected


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_list(pa.large_string()),
        pa.list_view(pa.string()),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
        pa.list_(pa.string_view()),
    ],
)
def test_every_kind_of_list_in_parquet_is_read(tmp_path, kind):
    labels = pa.array(SETS, pa.list_(pa.string())).cast(kind) if "view" not in str(kind) else pa.array(SETS, kind)
    assert train(as_file(tmp_path / "a.parquet", labels)).labels.to_pylist() == SETS


def test_lists_of_a_fixed_size_are_read(tmp_path):
    labels = pa.array([["a", "b"], None, ["b", "c"]], pa.list_(pa.string(), 2))
    assert train(as_file(tmp_path / "a.parquet", labels)).labels.to_pylist() == [["a", "b"], [], ["b", "c"]]


def test_each_column_of_0_and_1_is_a_label(tmp_path):
    toxic, insult, threat = [1, 0, 0, 1], [True, False, True, True], [0.0, 0.0, 1.0, 0.0]
    expected = [["toxic", "insult"], [], ["insult", "threat"], ["toxic", "insult"]]
    for suffix in ("csv", "jsonl", "parquet"):
        file = as_file(tmp_path / f"a.{suffix}", list("wxyz"), toxic=toxic, insult=insult, threat=threat)
        assert train(file, label=["toxic", "insult", "threat"]).labels.to_pylist() == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", " ", ""]), max_size=5), min_size=1, max_size=8))
def test_lists_fields_and_indicator_columns_give_the_same_labels(tmp_path, labels):
    expected = [[label for label in dict.fromkeys(row) if label.strip()] for row in labels]
    options = {
        "jsonl": (labels, {}),
        "csv": (["|".join(row) for row in labels], {"separator": "|"}),
        "parquet": (labels, {"label": ["a", "b", "c"]}),
    }
    for suffix, (values, how) in options.items():
        switches = {name: [int(name in row) for row in labels] for name in "abc"}
        source = FileSource(as_file(tmp_path / f"a.{suffix}", values, **switches), **how)
        if not any(expected):
            assert "no row has a label" in refused(source)
        elif suffix == "parquet":
            assert source.load()["train"].labels.to_pylist() == [sorted(row) for row in expected]
        else:
            assert source.load()["train"].labels.to_pylist() == expected


# What is wrong with a row


@pytest.mark.parametrize("how", [{}, {"separator": "|"}])
def test_labels_do_not_depend_on_the_number_of_blocks(tmp_path, caplog, monkeypatch, how):
    lists = [["a", " b"], ["c"], ["b", "b", ""], [], ["c", "a", "c"], ["d"], ["\ufffd"]] * 50
    values = ["|".join(labels) for labels in lists] if how else lists
    path = tmp_path / "a.jsonl"
    as_file(path, values)
    path.write_bytes(path.read_bytes().replace(b"\\ufffd", b"\xff"))

    def read():
        caplog.clear()
        split = train(str(path), encoding="utf-8", **how)
        return split.labels.to_pylist(), split.rows.tolist(), split.dropped, list(caplog.messages)

    whole = read()
    monkeypatch.setattr(readers.files, "BLOCK", 256)
    assert read() == whole
    labels, rows, dropped, messages = whole
    assert labels[:6] == labels[-6:] == [["a", "b"], ["c"], ["b"], [], ["c", "a"], ["d"]]
    assert (rows[-1], dropped) == (349, {"with a label that is not UTF-8": 50})
    assert messages[0].endswith("100 rows repeat a label, which counts once (rows 3, 5, 10, 12, 17 and 95 more)")


def test_a_repeated_label_counts_once_with_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        split = train(as_file(tmp_path / "a.jsonl", [["b", "a", "b"], ["a"], ["a", " a", "a"]]))
    assert split.labels.to_pylist() == [["b", "a"], ["a"], ["a"]]
    assert caplog.messages == ["a.jsonl: 2 rows repeat a label, which counts once (rows 1, 3)"]


def test_dropping_a_row_keeps_the_labels_of_other_rows(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,x|y\n,y\nc,\nd,y\n")
    split = train(str(path), separator="|")
    assert split.labels.to_pylist() == [["x", "y"], [], ["y"]]
    assert split.dropped == {"without a text": 1}


def test_a_row_with_a_label_that_is_not_utf8_is_dropped(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text":"a","label":["x","\xff"]}\n{"text":"b","label":["y"]}\n')
    (tmp_path / "a.csv").write_bytes(b"text,label\na,x|\xff\nb,y\n")
    for name in ("a.jsonl", "a.csv"):
        split = train(str(tmp_path / name), encoding="utf-8", separator="|" if name == "a.csv" else None)
        assert split.labels.to_pylist() == [["y"]]
        assert split.dropped == {"with a label that is not UTF-8": 1}


def test_a_row_without_a_0_or_1_is_dropped(tmp_path, caplog):
    path = tmp_path / "a.csv"
    path.write_text("text,x,y\na,1,0\nb,,1\nc,0, 1\n")
    split = train(str(path), label=["x", "y"])
    assert split.labels.to_pylist() == [["x"], ["y"]]
    assert caplog.messages[0] == "a.csv: dropped 1 row without a 0 or 1 in some label column (row 2)"


# Error messages


@pytest.mark.parametrize("value", ["2", "yes", "0.5", "-1"])
def test_an_invalid_value_in_a_label_column_is_reported(tmp_path, value):
    file = as_file(tmp_path / "a.csv", ["", ""], x=["1", "0"], y=["0", value])
    message = f"a.csv: row 2: column 'y' holds '{value}'; where data.label names several columns each holds 0 or 1"
    assert refused(FileSource(file, label=["x", "y"])) == message
    file = as_file(tmp_path / "a.parquet", ["", ""], x=[1, 0], y=[0.0, float(value) if value != "yes" else 0.5])
    assert refused(FileSource(file, label=["x", "y"])).startswith("a.parquet: row 2: column 'y' holds ")


def test_a_task_that_does_not_fit_the_labels_is_reported(tmp_path):
    lists = as_file(tmp_path / "lists.jsonl", SETS)
    one_each = as_file(tmp_path / "one.csv", ["x", "y"], x=[0, 1], y=[1, 1])
    why = "rows have any number of labels. Remove data.task"
    message = f"data.task=single_label, but column 'label' holds lists: {why}"
    assert refused(FileSource(lists, task="single_label")) == message
    message = f"data.task=single_label, but data.separator='|' splits column 'label': {why}"
    assert refused(FileSource(one_each, task="single_label", separator="|")) == message
    message = f"data.task=single_label, but data.label names 2 columns: {why}"
    assert refused(FileSource(one_each, task="single_label", label=["x", "y"])) == message
    assert refused(FileSource(one_each, task="multi_label")).startswith(
        "data.task=multi_label, but column 'label' of one.csv holds one label per row: set data.separator"
    )
    assert train(lists, task="multi_label").task == "multi_label"
    assert train(one_each, task="single_label").task == "single_label"
    message = "data.task is 'multilabel'; it can be single_label, multi_label or null. Did you mean 'multi_label'?"
    assert refused(FileSource(lists, task="multilabel")) == message


def test_a_separator_for_lists_is_refused(tmp_path):
    message = "data.separator='|', but column 'label' already holds lists: remove data.separator"
    assert refused(FileSource(as_file(tmp_path / "a.jsonl", [["a|b"]]), separator="|")) == message


def test_labels_that_are_not_lists_of_labels_are_reported(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "label": [[["x"]]]}), tmp_path / "deep.parquet")
    message = (
        "deep.parquet: column 'label' (data.label) holds lists of lists; it must hold lists of text or whole numbers"
    )
    assert refused(FileSource(str(tmp_path / "deep.parquet"))) == message
    message = "a.parquet: column 'label' (data.label) holds 1.5; it must hold text, whole numbers or bools"
    assert refused(FileSource(as_file(tmp_path / "a.parquet", [[1.0, 1.5]]))) == message


@pytest.mark.parametrize("labels", [[[], []], [[""], None]])
def test_data_without_any_label_is_refused(tmp_path, labels):
    for suffix in ("jsonl", "parquet"):
        file = as_file(tmp_path / f"a.{suffix}", labels)
        assert refused(FileSource(file)) == f"a.{suffix}: no row has a label (data.label=label)"
    file = as_file(tmp_path / "a.csv", ["", ""], x=[0, 0], y=[0, 0])
    assert refused(FileSource(file, label=["x", "y"])) == "a.csv: no row has a label (data.label=[x,y])"


def test_invalid_label_columns_are_refused(tmp_path):
    file = as_file(tmp_path / "a.csv", ["x", "y"], x=[0, 1], y=[1, 1])
    message = "a.csv has no column 'z'; it has 'text', 'label', 'x', 'y'."
    assert refused(FileSource(file, label=["x", "z"])) == message
    for label in ([], ["x"], ["x", "x"]):
        message = f"data.label={label}: name one column, or several different ones in a list"
        assert refused(FileSource(file, label=label)) == message
    message = "data.text and data.label are both 'text'; they must be different columns"
    assert refused(FileSource(file, label=["x", "text"])) == message
    message = "data.separator splits one column, but data.label names several: remove one of the two settings"
    assert refused(FileSource(file, label=["x", "y"], separator="|")) == message
    message = "data.separator is empty; use the separator of the labels, such as '|', or null"
    assert refused(FileSource(file, separator="")) == message


def test_splits_of_different_tasks_are_reported(tmp_path):
    many, one = as_file(tmp_path / "many.jsonl", SETS), as_file(tmp_path / "one.jsonl", ["x", "y"])
    assert refused(FileSource(many, test=one)) == (
        f"{one} is single_label but {many} is multi_label: all files must have the same task"
    )


def test_types_of_json_columns_are_found_independently(tmp_path):
    rows = [
        {"text": "a", "id": None, "label": None, "w": 1},
        {"text": "b", "id": 7, "label": [], "w": 2.5},
        {"text": "c", "id": 2**53 + 1, "label": [3], "w": None},
        {"text": "d", "id": 9, "label": [3, 4.0], "w": 1, "other": {"a": [1, "b"]}},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2] + rows[3:]))
    split = train(str(tmp_path / "a.jsonl"), id="id", weight="w")
    assert split.labels.to_pylist() == [[], [], ["3", "4"]]
    assert split.ids.to_pylist() == ["1", "7", "9"]
    np.testing.assert_array_equal(split.weights, [1, 2.5, 1])
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert train(str(tmp_path / "a.jsonl"), id="id").ids.to_pylist() == ["1", "7", str(2**53 + 1), "9"]


# The Hub


def saved(hub, path, labels, feature):
    features = hub.Features({"text": hub.Value("string"), "label": feature})
    texts = [f"text {row}" for row in range(len(labels))]
    hub.Dataset.from_dict({"text": texts, "label": labels}, features=features).save_to_disk(path)
    return HubSource(str(path), test=None)


def test_lists_of_class_labels_give_their_names(hub, tmp_path):
    kinds = hub.ClassLabel(names=["joy", "anger", "fear"])
    for number, feature in enumerate([hub.List(kinds), hub.LargeList(kinds), hub.Sequence(kinds)]):
        source = saved(hub, tmp_path / str(number), [[2, 0], [], [1, -1]], feature)
        assert source.load()["train"].labels.to_pylist() == [["fear", "joy"], [], ["anger"]]


def test_lists_of_text_and_text_to_split_come_from_a_dataset_too(hub, tmp_path):
    source = saved(hub, tmp_path / "lists", SETS, hub.List(hub.Value("string")))
    assert source.load()["train"].labels.to_pylist() == SETS
    source = saved(hub, tmp_path / "fields", ["a;b", "", "b"], hub.Value("string"))
    source.separator = ";"
    assert source.load()["train"].labels.to_pylist() == [["a", "b"], [], ["b"]]


def test_columns_of_0_and_1_come_from_a_dataset_too(hub, tmp_path):
    columns = {"text": ["a", "b"], "toxic": [0, 1], "insult": [1, 1]}
    features = hub.Features(
        {"text": hub.Value("string"), "toxic": hub.ClassLabel(names=["no", "yes"]), "insult": hub.Value("float32")}
    )
    hub.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "a")
    split = HubSource(str(tmp_path / "a"), label=["toxic", "insult"]).load()["train"]
    assert split.labels.to_pylist() == [["insult"], ["toxic", "insult"]]
