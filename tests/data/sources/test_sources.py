import csv
import gzip
import io
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
from counterpoise.errors import UserError

TEXTS = [
    "plain",
    "两会在北京召开",
    "أهلا وسهلا",
    "emoji 🎉👩‍👩‍👧",
    'say "hi", then\nleave\r\n\n',
    "  kept as is  ",
    "NA",
]
LABELS = ["01", "新闻", "خبر", "😀", "a b", "null", "1"]


def written(path, data: bytes):
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def as_csv(rows, header=("text", "label"), **options) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, **options).writerows([header, *rows])
    return out.getvalue().encode()


def as_json(rows) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def train(file, **options):
    return FileSource(train=str(file), **{"max_dropped": 1} | options).load()["train"]


@pytest.fixture
def folder(tmp_path):
    """A folder with a good train.csv."""
    (tmp_path / "train.csv").write_bytes(as_csv([("a", "x"), ("b", "y")]))
    return tmp_path


# Formats


@pytest.mark.parametrize("suffix", ["csv", "tsv", "tab", "jsonl", "ndjson", "json", "parquet"])
@pytest.mark.parametrize("gz", ["", ".gz"])
def test_texts_labels_and_ids_survive_a_round_trip_through_every_format(tmp_path, suffix, gz):
    if (suffix, gz) == ("parquet", ".gz"):
        pytest.skip("Parquet compresses itself")
    ids = [f"n{row}" for row in range(len(TEXTS))]
    path = tmp_path / f"Some.Data.{suffix}{gz}"
    rows = list(zip(ids, TEXTS, LABELS, strict=True))
    names = ("key", "text", "label")
    if suffix == "parquet":
        pq.write_table(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), path)
    elif suffix in ("csv", "tsv", "tab"):
        written(path, as_csv(rows, names, delimiter="," if suffix == "csv" else "\t"))
    else:
        written(path, as_json([dict(zip(names, row, strict=True), more={"deep": [1]}) for row in rows]))
    split = train(path, id="key")
    assert split.texts.to_pylist() == TEXTS
    assert split.labels.to_pylist() == LABELS
    assert split.ids.to_pylist() == ids
    assert split.rows.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert (split.rows.dtype, split.texts.type) == (np.int64, pa.large_string())
    assert (split.labels.type, split.ids.type) == (pa.string(), pa.string())
    assert isinstance(split.labels, pa.Array)
    assert isinstance(split.ids, pa.Array)
    assert (len(split), split.name, split.file, split.dropped) == (7, "train", str(path), {})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_any_text_survives_a_round_trip_through_csv(tmp_path, texts):
    texts = [f"{text}." for text in texts]
    path = tmp_path / "any.csv"
    path.write_bytes(as_csv([(text, "x") for text in texts]))
    assert train(path).texts.to_pylist() == texts


def test_csv_may_start_with_a_byte_order_mark_and_have_other_columns_in_any_order(tmp_path):
    path = tmp_path / "windows.csv"
    path.write_bytes(b"\xef\xbb\xbflabel,year,text\r\n007,1999,a\r\n1.50,2000,b\r\n")
    split = train(path)
    assert split.labels.to_pylist() == ["007", "1.50"]
    assert split.texts.to_pylist() == ["a", "b"]


def test_csv_can_have_another_delimiter_and_quote(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text;label\n'a;\nb';x\n")
    assert train(path, delimiter=";", quote="'").texts.to_pylist() == ["a;\nb"]


def test_a_file_of_three_header_lines_without_quoting_is_read(tmp_path):
    path = tmp_path / "orange.tab"
    path.write_text('Category\tText\nd\tstring\nclass\t\n\t\nx\t"a\ny\tb "c"\n\n')
    split = train(path, quote=None, skip_rows_after_header=2, text="Text", label="Category")
    assert split.texts.to_pylist() == ['"a', 'b "c"']
    assert split.rows.tolist() == [2, 3]


def test_a_row_longer_than_one_block_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(readers.files, "BLOCK", 2**20)
    path = tmp_path / "long.csv"
    path.write_bytes(as_csv([("a", "x"), ("b" * 3 * 2**20, "y")]))
    assert refused(FileSource(str(path))) == "long.csv has a row of more than 1 MiB: is a quote not closed?"


def test_all_given_splits_are_loaded(folder):
    (folder / "test.csv").write_bytes(as_csv([("c", "x")]))
    source = FileSource(str(folder / "train.csv"), test=str(folder / "test.csv"))
    assert {name: (split.name, len(split)) for name, split in source.load().items()} == {
        "train": ("train", 2),
        "test": ("test", 1),
    }
    assert source.load()["train"].ids is None


# Labels that are not text


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([3, -1, 2**60], ["3", "-1", str(2**60)]),
        ([True, False, True], ["true", "false", "true"]),
        ([3.0, 0.0, -1.0], ["3", "0", "-1"]),
        ([1, 2.0, 3], ["1", "2", "3"]),
        (["2020-01-01", "2020-01-02", "3"], ["2020-01-01", "2020-01-02", "3"]),
    ],
)
def test_whole_numbers_and_bools_become_text(tmp_path, values, labels):
    (tmp_path / "a.jsonl").write_bytes(as_json([{"text": "a", "label": value} for value in values]))
    assert train(tmp_path / "a.jsonl").labels.to_pylist() == labels
    pq.write_table(pa.table({"text": ["a"] * 3, "label": pa.array(values)}), tmp_path / "a.parquet")
    assert train(tmp_path / "a.parquet").labels.to_pylist() == labels


def test_a_gap_among_whole_numbers_is_a_row_without_a_label(tmp_path):
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": [1, None, 3]})
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    pq.write_table(pa.table({"text": ["a"] * 3, "label": [1.0, float("nan"), 3.0]}), tmp_path / "nan.parquet")
    for name in ("a.parquet", "a.jsonl", "nan.parquet"):
        split = train(tmp_path / name)
        assert split.labels.to_pylist() == ["1", "3"]
        assert split.dropped == {"without a label": 1}


def test_pandas_categories_and_views_are_text(tmp_path):
    table = pa.table(
        {
            "text": pa.array(["a", "b"], pa.string_view()),
            "label": pa.array(["x", "y"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    split = train(tmp_path / "a.parquet")
    assert (split.texts.to_pylist(), split.labels.to_pylist()) == (["a", "b"], ["x", "y"])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 3.5], "holds 3.5; it must hold text, whole numbers or bools"),
        ([1.0, 1e30], "holds 1e+30; it must"),
        ([{"a": 1}, {"a": 2}], "holds struct<"),
        ([pd.Timestamp("2020-01-01").to_pydatetime()] * 2, "holds timestamp[us]; it must"),
    ],
)
def test_labels_of_another_type_are_refused(tmp_path, values, expected):
    pq.write_table(pa.table({"text": ["a", "b"], "label": values}), tmp_path / "a.parquet")
    message = refused(FileSource(str(tmp_path / "a.parquet")))
    assert message.startswith("a.parquet: column 'label' (data.label) holds ")
    assert expected in message


def test_texts_of_another_type_are_refused(tmp_path):
    pq.write_table(pa.table({"text": [1, 2], "label": ["x", "y"]}), tmp_path / "a.parquet")
    message = "a.parquet: column 'text' (data.text) holds int64, not text"
    assert refused(FileSource(str(tmp_path / "a.parquet"))) == message


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_number_ids_become_text(tmp_path, kind):
    rows = {"key": [7, 8], "text": ["a", "b"], "label": [1, 0]}
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        path.write_bytes(as_json([dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]))
    else:
        pq.write_table(pa.table(rows), path)
    split = train(path, id="key")
    assert (split.ids.to_pylist(), split.labels.to_pylist()) == (["7", "8"], ["1", "0"])


def test_a_row_without_an_id_gets_its_row_number(tmp_path):
    (tmp_path / "a.csv").write_bytes(as_csv([("", "x", ""), ("b", "x", "k"), ("c", "x", "")], ("text", "label", "key")))
    assert train(tmp_path / "a.csv", id="key").ids.to_pylist() == ["k", "3"]


# Bad rows


def test_a_row_without_a_label_or_text_is_dropped_counted_and_warned_of(tmp_path, caplog):
    path = tmp_path / "a.csv"
    path.write_bytes(as_csv([("a", " x\t"), ("b", " \u3000"), ("", ""), ("", "x"), (" \n", "x"), ("c", "y")]))
    with caplog.at_level(logging.WARNING):
        split = train(path)
    assert split.texts.to_pylist() == ["a", "c"]
    assert split.labels.to_pylist() == ["x", "y"]
    assert split.rows.tolist() == [1, 6]
    assert split.dropped == {"without a label": 2, "without a text": 2}
    assert caplog.messages == [
        "a.csv: dropped 2 rows without a label (rows 2, 3)",
        "a.csv: dropped 2 rows without a text (rows 4, 5)",
        "a.csv: dropped rows by class: 'x' 2 of 3",
    ]
    assert split.notices == tuple(caplog.messages)


def test_nulls_are_rows_without_a_label_or_text(tmp_path):
    rows = [
        {"text": None, "label": "x"},
        {"label": "x"},
        {"text": "c", "label": None},
        {"text": "d", "label": "y"},
    ]
    (tmp_path / "a.jsonl").write_bytes(as_json(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        assert train(tmp_path / name).dropped == {"without a label": 1, "without a text": 2}


def test_a_row_that_is_not_utf8_is_dropped_and_the_others_kept(tmp_path, caplog):
    path = tmp_path / "latin.csv"
    good = "gut é 好".encode()
    path.write_bytes(b"text,label\n" + good + b",x\ncaf\xe9,x\n" + good + b",\xff\n\xff,\xff\n" + good + b",y\n")
    split = train(path, encoding="utf-8")
    assert split.texts.to_pylist() == ["gut é 好"] * 2
    assert split.rows.tolist() == [1, 5]
    assert split.dropped == {"with a label that is not UTF-8": 2, "with a text that is not UTF-8": 1}
    assert "latin.csv: dropped 1 row with a text that is not UTF-8 (row 2)" in caplog.messages

    (tmp_path / "a.jsonl").write_bytes(
        b'{"text":"\xff","label":"x"}\n{"text":"b","label":"\xff"}\n{"text":"c","label":"y"}\n'
    )
    assert train(tmp_path / "a.jsonl", encoding="utf-8").texts.to_pylist() == ["c"]


def test_bad_rows_in_later_blocks_have_the_right_row_numbers(tmp_path):
    path = tmp_path / "a.csv"
    rows = [b"\xff,x\n" if row in (1500, 5000) else b"a\0b,x\n" for row in range(1, 6001)]
    path.write_bytes(b"text,label\n" + b"".join(rows))
    split = train(path, encoding="utf-8")
    assert sorted(set(range(1, 6001)) - set(split.rows.tolist())) == [1500, 5000]
    assert split.texts[0].as_py() == "a\0b"


def test_five_bad_rows_are_named_and_the_rest_counted(tmp_path, caplog):
    (tmp_path / "a.csv").write_bytes(as_csv([("a", "")] * 17 + [("a", "x")]))
    train(tmp_path / "a.csv")
    assert caplog.messages == ["a.csv: dropped 17 rows without a label (rows 1, 2, 3, 4, 5 and 12 more)"]


def test_bad_rows_are_an_error_with_on_bad_row_error(tmp_path):
    (tmp_path / "a.csv").write_bytes(as_csv([("a", ""), ("", "x"), ("b", "y")]))
    assert refused(FileSource(str(tmp_path / "a.csv"), on_bad_row="error")) == (
        "a.csv: 1 row without a label (row 1); 1 row without a text (row 2); correct them, or set data.on_bad_row=drop"
    )


# Error messages


def test_invalid_settings_are_refused(folder):
    file = str(folder / "train.csv")
    message = "data.train is not set: give the path of the training file"
    assert refused(FileSource(None)) == message
    message = "data.on_bad_row is 'skip'; it can be 'drop' or 'error'"
    assert refused(FileSource(file, on_bad_row="skip")) == message
    message = "data.text and data.label are both 'text'; they must be different columns"
    assert refused(FileSource(file, label="text")) == message
    message = "data.delimiter is '\\\\n'; it must be one ASCII character"
    assert refused(FileSource(file, delimiter="\\n")) == message
    assert refused(FileSource(file, quote="«»")) == "data.quote is '«»'; it must be one ASCII character"
    assert refused(FileSource(file, quote=1)) == "data.quote is 1; it must be one ASCII character"
    assert refused(FileSource(file, separator=1)).startswith("data.separator is 1; use the separator of")
    assert refused(FileSource(["a.csv", "b.csv"])).startswith("there is no file ['a.csv', 'b.csv']")


@pytest.mark.parametrize(
    ("key", "value"),
    [("text", None), ("text", ["a", ["b"]]), ("text", 1.5), ("label", None), ("label", ["a", ["b"]]), ("id", True)],
)
def test_invalid_column_names_are_refused(key, value):
    with pytest.raises(UserError, match=f"data.{key} is .*; it must be the name of a column"):
        FileSource("a.csv", **{key: value})


def test_columns_may_have_numbers_for_names(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(as_csv([("a", "1", "0", "k"), ("b", "0", "1", "l")], ("0", "1", "2", "3")))
    split = train(path, text=0, label=1, id=3)
    assert (split.texts.to_pylist(), split.labels.to_pylist()) == (["a", "b"], ["1", "0"])
    assert split.ids.to_pylist() == ["k", "l"]
    assert train(path, text=0, label=[1, 2]).labels.to_pylist() == [["1"], ["2"]]


def test_a_missing_file_is_reported_with_the_nearest_name(folder):
    message = f"there is no file {folder / 'trian.csv'}. Did you mean 'train.csv'?"
    assert refused(FileSource(str(folder / "trian.csv"))) == message
    message = f"there is no file {folder / 'no' / 'a.csv'}: there is no folder {folder / 'no'}."
    assert refused(FileSource(str(folder / "no" / "a.csv"))) == message


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.xlsx", ".xlsx"), ("a", ""), ("a.gz", ""), ("a.parquet.gz", ".parquet")]
)
def test_an_unknown_suffix_is_reported_with_those_known(tmp_path, name, suffix):
    (tmp_path / name).touch()
    assert refused(FileSource(str(tmp_path / name))) == (
        f"{name} has the suffix '{suffix}'; known are .csv, .tsv, .tab, .jsonl, .ndjson, .json "
        "(each also with .gz) and .parquet"
    )


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_missing_column_is_reported_with_those_there_are(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"Label": ["x"], "text": ["a"]}), path)
    else:
        path.write_bytes(
            as_csv([("x", "a")], ("Label", "text")) if suffix == "csv" else as_json([{"Label": "x", "text": "a"}])
        )
    message = f"a.{suffix} has no column 'label'; it has 'Label', 'text'. Did you mean 'Label'?"
    assert refused(FileSource(str(path))) == message


@pytest.mark.parametrize(
    ("name", "data"), [("a.csv", "caf\xe9,label\na,x\n"), ("a.jsonl", '{"caf\xe9": "a", "label": "x"}\n')]
)
def test_a_missing_column_is_reported_where_names_of_others_are_not_utf8(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data.encode("latin-1"))
    assert refused(FileSource(str(path))).startswith(f"{name} has no column 'text'; it has 'café', 'label'.")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", b""),
        ("a.csv", b"text,label"),
        ("a.csv", b"text,label\n"),
        ("a.jsonl", b""),
        ("a.jsonl", b"\n"),
        ("a.csv.gz", b""),
    ],
)
def test_a_file_without_rows_is_reported(tmp_path, name, data):
    assert refused(FileSource(written(tmp_path / name, data))) == f"{name} has no rows"


def test_a_file_without_good_rows_is_reported(tmp_path):
    path = written(tmp_path / "a.csv", as_csv([("a", ""), ("", "x")]))
    assert refused(FileSource(path)) == (
        "a.csv has no usable rows: 1 row without a label (row 1); 1 row without a text (row 2)"
    )


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.csv", b"text,label\na,x\n\n\"b\nb\",y\nc,d,e\n", "row 3: Expected 2 columns, got 3: c,d,e"),
        ("a.jsonl", b'{"text":"a","label":"x"}\n\n{"text":\n', "row 2 is not JSON; each line must"),
        ("a.json", b'[\n{"text":"a","label":"x"},\n]\n', "it is not a valid JSON array: "),
        ("a.json", b'[{"text":"a","label":"x"}, 3]\n', "row 2 is a int; the array must hold objects"),
        ("a.jsonl", b'{"text":"a","label":1}\n{"text":3,"label":1}\n', "row 2: column 'text' holds int"),
        ("a.jsonl", b'{"text":["a"],"label":"x"}\n', "row 1: column 'text' holds list, not text"),
        ("a.jsonl", b'{"text":"a","label":{"x":1}}\n', "row 1: column 'label' holds dict, not text"),
        ("a.jsonl", b'{"text":"a","label":[["x"]]}\n', "row 1: column 'label' holds a list of lists, not of text"),
        ("a.jsonl", b'{"text":"a","label":["x",1]}\n', "row 1: column 'label' holds a list of int, in the rows"),
        ("a.jsonl", b'{"text":"a","label":["x"]}\n{"text":"a","label":"x"}\n', "row 2: column 'label' holds str, in"),
        ("a.jsonl", b'{"text":"a","label":"x"}\n{"text":"a","label":1}\n', "row 2: column 'label' holds int"),
        ("a.parquet", b"PAR1 not one", "Parquet magic bytes not found"),
        ("a.parquet", b"", "Parquet file size is 0 bytes"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("gz", ["", ".gz"])
def test_a_malformed_file_is_reported_with_the_row_where_there_is_one(tmp_path, name, data, expected, gz):
    if gz and name == "a.parquet":
        pytest.skip("Parquet compresses itself")
    message = refused(FileSource(written(tmp_path / f"{name}{gz}", data)))
    assert message.startswith(f"cannot read {name}{gz}: {expected}")


def test_a_file_that_is_not_gzip_is_reported(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(as_csv([("a", "x")]))
    assert refused(FileSource(str(tmp_path / "a.csv.gz"))).startswith("cannot read a.csv.gz: zlib inflate failed")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(as_json([{"text": "a", "label": "x"}] * 99))[:-12])
    assert refused(FileSource(str(tmp_path / "b.jsonl.gz"))) == "cannot read b.jsonl.gz: Truncated compressed stream"


def test_a_long_broken_row_is_cut_in_the_message(tmp_path):
    path = written(tmp_path / "a.csv", as_csv([("a", "x"), ("b" * 5000, "x", "y")]))
    assert len(refused(FileSource(path))) < 400


# The Hub


def test_a_folder_of_files_is_read_as_a_dataset(hub, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_bytes(as_csv([("a", "x"), ("两会🎉", " y "), ("c", "")]))
    (tmp_path / "data" / "test.csv").write_bytes(as_csv([("d", "x")]))
    source = HubSource(str(tmp_path / "data"))
    source.prepare()
    splits = source.load()
    assert list(splits) == ["train", "test"]
    assert splits["train"].texts.to_pylist() == ["a", "两会🎉"]
    assert splits["train"].labels.to_pylist() == ["x", "y"]
    assert splits["train"].rows.tolist() == [1, 2]
    assert splits["train"].dropped == {"without a label": 1}
    assert splits["train"].file == f"{tmp_path / 'data'}/train"
    assert (splits["train"].labels.type, splits["train"].texts.type) == (pa.string(), pa.large_string())
    assert len(splits["test"]) == 1


def saved(hub, path, **columns):
    features = hub.Features(
        {
            "text": hub.Value("string"),
            "label": hub.ClassLabel(names=["neg", "pos"]),
            "key": hub.Value("int64"),
        }
    )
    dataset = hub.Dataset.from_dict({"key": list(range(10, 10 + len(columns["text"]))), **columns}, features=features)
    hub.DatasetDict({"train": dataset, "dev": dataset.select([1, 0])}).save_to_disk(path)
    dataset.save_to_disk(f"{path}-single")
    return path


def test_a_saved_dataset_gives_the_names_of_its_classes(hub, tmp_path):
    path = saved(hub, str(tmp_path / "saved"), text=["a", "b", "c", "d"], label=[1, 0, -1, None])
    splits = HubSource(path, validation="dev", id="key").load()
    assert list(splits) == ["train", "validation"]
    assert splits["train"].labels.to_pylist() == ["pos", "neg"]
    assert splits["train"].dropped == {"without a label": 2}
    assert splits["train"].ids.to_pylist() == ["10", "11"]
    assert splits["validation"].texts.to_pylist() == ["b", "a"]


def test_a_dataset_saved_without_splits_is_the_training_split(hub, tmp_path):
    path = saved(hub, str(tmp_path / "saved"), text=["a", "b"], label=[1, 0])
    assert {name: len(split) for name, split in HubSource(f"{path}-single").load().items()} == {"train": 2}


def test_a_missing_split_or_column_of_a_dataset_is_reported(hub, tmp_path):
    path = saved(hub, str(tmp_path / "saved"), text=["a", "b", "c"], label=[1, 0, -1])
    message = f"{path} has no split 'tset' (data.test); it has train, dev"
    assert refused(HubSource(path, test="tset")) == message
    assert "has no split 'all' (data.train); it has train, dev" in refused(HubSource(path, train="all"))
    message = f"{path}/train has no column 'txt'; it has 'key', 'text', 'label'. Did you mean 'text'?"
    assert refused(HubSource(path, text="txt")) == message
    message = f"{path}/train: 1 row without a label (row 3); correct them, or set data.on_bad_row=drop"
    assert refused(HubSource(path, on_bad_row="error")) == message
    assert list(HubSource(path, validation="validation").load()) == ["train"]


def test_a_dataset_that_cannot_be_loaded_is_reported(hub, tmp_path):
    for path in ("no/such", str(tmp_path / "nothing")):
        assert refused(HubSource(path)).startswith(f"cannot load the dataset {path} (data.path): ")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_bytes(as_csv([("a", "x")]))
    assert "BuilderConfig 'en' not found" in refused(HubSource(str(tmp_path / "data"), name="en"))
