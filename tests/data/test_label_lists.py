"""Vectors of 0 and 1 and lists written as text: read as the labels they stand for, or refused in one line."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import refused
from counterpoise.data.sources.files import FileSource
from counterpoise.data.sources.table import TableSource

NAMES = ["rain", "snow", "wind", "sun"]


def as_file(path, labels, kind=None) -> str:
    texts = [f"text {row}" for row in range(len(labels))]
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": texts, "label": pa.array(labels, kind)}), path)
    elif path.suffix == ".csv":
        lines = [
            f'"{text}","{str(label).replace(chr(34), chr(34) * 2)}"' for text, label in zip(texts, labels, strict=True)
        ]
        path.write_text("\n".join(["text,label", *lines]))
    else:
        path.write_text("".join(json.dumps({"text": t, "label": v}) + "\n" for t, v in zip(texts, labels, strict=True)))
    return str(path)


def train(file, **options):
    return FileSource(file, **options).load()["train"]


def vectors(size: int, rows: int = 12) -> np.ndarray:
    drawn = np.random.default_rng(size).random((rows, size)) < 0.4
    drawn[0] = True
    drawn[1] = np.arange(size) == 0
    return drawn


def names_of(drawn: np.ndarray) -> list[list[str]]:
    return [[NAMES[place] for place in np.flatnonzero(row)] for row in drawn]


FORMS = {
    "integers": lambda row: [int(value) for value in row],
    "floats": lambda row: [float(value) for value in row],
    "bools": lambda row: [bool(value) for value in row],
    "text": lambda row: [str(int(value)) for value in row],
    "text of floats": lambda row: [str(float(value)) for value in row],
}


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
def test_vectors_are_labels_where_names_are_given_and_refused_otherwise(tmp_path, size, form, suffix):
    drawn = vectors(size)
    file = as_file(tmp_path / f"a.{suffix}", [FORMS[form](row) for row in drawn])
    assert "data.label_names" in refused(FileSource(file))
    split = train(file, label_names=NAMES[:size])
    assert split.labels.to_pylist() == names_of(drawn)
    assert split.label_names == tuple(NAMES[:size])
    for wrong in (NAMES[: size - 1], [*NAMES[:size], "more"]):
        if len(wrong) > 1:
            message = refused(FileSource(file, label_names=wrong))
            assert f"row 1 holds a vector of {size} values" in message
            assert f"{len(wrong)} names" in message


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.int8(), 3), pa.large_list(pa.bool_())])
def test_vectors_of_any_arrow_type_are_read(tmp_path, kind):
    drawn = vectors(3)
    values = [FORMS["bools" if "bool" in str(kind) else "integers"](row) for row in drawn]
    file = as_file(tmp_path / "a.parquet", values, kind)
    assert "data.label_names" in refused(FileSource(file))
    assert train(file, label_names=NAMES[:3]).labels.to_pylist() == names_of(drawn)


def test_vectors_of_a_table_in_memory_are_read():
    class Mine(TableSource):
        def read(self):
            return {"train": pa.table({"text": ["a", "b"], "label": [[1.0, 0.0], [0.0, 1.0]]})}

    assert "data.label_names" in refused(Mine())
    assert Mine(label_names=["x", "y"]).load()["train"].labels.to_pylist() == [["x"], ["y"]]


@pytest.mark.parametrize("separator", [" ", ",", ";", "|"])
def test_vectors_in_a_field_are_read_with_their_separator(tmp_path, separator):
    drawn = vectors(3)
    file = as_file(tmp_path / "a.csv", [separator.join(str(int(value)) for value in row) for row in drawn])
    message = refused(FileSource(file))
    assert "data.separator" in message
    assert "data.label_names" in message
    assert "data.label_names" in refused(FileSource(file, separator=separator))
    assert train(file, separator=separator, label_names=NAMES[:3]).labels.to_pylist() == names_of(drawn)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[1, 0, 0], [0, 1]], "holds a vector of 2 values"),
        ([[1, 0, 0], []], "holds a vector of 0 values"),
        ([[1, -1, -1], [-1, 1, 1]], "-1"),
        ([[1, None, 0], [1, 0, 0]], "null"),
        ([[0.0, 0.3, 0.7], [1.0, 0.0, 0.0]], "holds 0.3"),
    ],
)
def test_invalid_vectors_are_refused(tmp_path, labels, expected):
    for suffix in ("jsonl", "parquet"):
        assert expected in refused(FileSource(as_file(tmp_path / f"a.{suffix}", labels), label_names=NAMES[:3]))


def test_a_null_among_vectors_is_a_row_without_labels(tmp_path):
    file = as_file(tmp_path / "a.jsonl", [[1, 0], None, [0, 1]])
    assert train(file, label_names=["x", "y"]).labels.to_pylist() == [["x"], [], ["y"]]


@pytest.mark.parametrize("values", [["1", "0"], ["0", "1"], ["1.0", "0.0"], ["true", "false"]])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_one_hot_vectors_of_text_are_not_labels(tmp_path, values, suffix):
    file = as_file(tmp_path / f"a.{suffix}", [values, values[::-1]] * 5)
    assert f"such as {values}: set data.label_names" in refused(FileSource(file))
    positive = train(file, label_names=["x", "y"]).labels.to_pylist()[0]
    assert positive == [["x", "y"][values.index(max(values))]]


@pytest.mark.parametrize("values", [[[0], [1], [0, 1], []], [[0, 1], [2]], [[10, 1], [0]], [["0"], ["1"], ["0"]]])
def test_lists_of_codes_are_labels(tmp_path, values):
    expected = [[str(value) for value in row] for row in values]
    assert train(as_file(tmp_path / "a.jsonl", values)).labels.to_pylist() == expected


# Lists written as text

SETS = [["a", "b"], [], ["it's"], ['say "c"'], ["a, b"], ["新闻", "a"], ["[x]"]]
WRITERS = {
    "python": repr,
    "json": json.dumps,
    "json of any character": lambda labels: json.dumps(labels, ensure_ascii=False),
    "json without spaces": lambda labels: json.dumps(labels, separators=(",", ":")),
    "spaces": lambda labels: f" {labels!r} ".replace("[", "[ ", 1),
    "tuple": lambda labels: repr(tuple(labels)) if labels else "[]",
    "set": lambda labels: "{" + ", ".join(map(repr, labels)) + "}" if labels else "[]",
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_lists_written_as_text_are_parsed(tmp_path, writer, suffix):
    fields = [WRITERS[writer](labels) for labels in SETS]
    split = train(as_file(tmp_path / f"a.{suffix}", [*fields, ""]))
    assert split.labels.to_pylist() == [*SETS, []]
    assert split.task == "multi_label"


def test_lists_of_codes_written_as_text_are_parsed(tmp_path):
    assert train(as_file(tmp_path / "a.csv", ["[3, 7]", "[]", "[7]"])).labels.to_pylist() == [["3", "7"], [], ["7"]]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["['a']", "b"], "row 1 holds ['a'], a list, and other rows hold no list"),
        (["b", "", "[1, 0]"], "row 3 holds [1, 0], a list"),
        (["['a' 'b']", "['a']"], "row 1 holds ['a' 'b'], which is not a list"),
        (["[a, b]", "[c]"], "row 1 holds [a, b], which is not a list"),
        (["[1. 0. 0.]", "[0. 1. 0.]"], "row 1 holds [1. 0. 0.], which is not a list"),
        (["['a', 1]", "['b']"], "another type"),
        (["['a']", "[1]"], "another type"),
        (["[['a']]", "[['b']]"], "which is not a list"),
        (["['a'", "['b']"], "row 2 holds ['b'], a list"),
        (["array([1, 0])", "array([0, 1])"], "row 1 holds array([1, 0]), which is not a list"),
        (["tensor([1, 0])", "tensor([0, 1], dtype=torch.int8)"], "row 1 holds tensor([1, 0]), which is not a list"),
    ],
)
def test_lists_that_cannot_be_parsed_are_refused_or_are_names_if_the_task_says_so(tmp_path, fields, expected):
    file = as_file(tmp_path / "a.csv", [*fields, fields[0]])
    message = refused(FileSource(file))
    assert expected in message
    assert "data.task=single_label" in message
    names = train(file, task="single_label", max_dropped=1).labels.to_pylist()
    assert names == [field for field in [*fields, fields[0]] if field]


def test_a_separator_of_lists_is_refused(tmp_path):
    file = as_file(tmp_path / "a.csv", ["['a', 'b']", "['b']"])
    assert "remove data.separator" in refused(FileSource(file, separator=","))


@pytest.mark.parametrize("fields", [["[c]", "a"], ["(none)", "a"], ["{x}", "y"], ["[", "]"], ["1.0", "0.0"]])
def test_names_with_brackets_are_names(tmp_path, fields):
    assert train(as_file(tmp_path / "a.csv", fields)).labels.to_pylist() == fields


# Names of the labels


@pytest.mark.parametrize("name", ["names.txt", "names.json"])
def test_names_may_stand_in_a_file(tmp_path, name):
    content = json.dumps(["x", "y"]) if name.endswith("json") else "x\ny\n"
    (tmp_path / name).write_text(content)
    file = as_file(tmp_path / "a.jsonl", [[1, 0], [0, 1]])
    assert train(file, label_names=str(tmp_path / name)).labels.to_pylist() == [["x"], ["y"]]


def test_labels_outside_the_names_are_refused(tmp_path):
    file = as_file(tmp_path / "a.csv", ["spam", "ham", "hamm", "ham"])
    message = refused(FileSource(file, label_names=["spam", "ham"]))
    assert "'hamm' (1 rows)" in message
    assert "Did you mean 'ham'?" in message
    assert train(file, label_names=["ham", "spam", "hamm", "other"]).label_names == ("ham", "spam", "hamm", "other")
    lists = as_file(tmp_path / "a.jsonl", [["x", "z"], ["y"]])
    assert "'z'" in refused(FileSource(lists, label_names=["x", "y"]))


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", " "], "nowhere.txt"])
def test_invalid_names_are_refused(tmp_path, names):
    message = refused(FileSource(as_file(tmp_path / "a.csv", ["a", "b"]), label_names=names))
    assert "nowhere.txt" in message or "data.label_names" in message
