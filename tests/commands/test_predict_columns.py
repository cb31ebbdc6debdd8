"""predict writes columns of the input beside the predictions, and escapes formulas on request."""

import csv
import datetime
import gzip
import io
import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commandline import call
from counterpoise.commands import predict, predictor
from counterpoise.data import readers
from counterpoise.data.readers import column_names
from counting import counting_model

CLASSES = ["=A1", "-1", "C"]
TABLE = {
    "text": ["a a b", "", 'c, "c"\r\nb', "b b", "@a a"],
    "number": [1, None, 3, 4, 2**60],
    "share": [0.1, None, 2.5, 1e-300, -2.0],
    "tags": [["x", "y"], None, [], [None, "=z"], ["w"]],
    "name": ["=1+1", "ä", "-5", "'=x", "plain"],
}
FORMATS = ["csv", "tsv", "jsonl", "parquet"]
DELIMITERS = {"csv": ",", "tsv": "\t"}


def as_cells(rows: list[list]) -> list[list[str]]:
    """The values of rows as cells of a CSV file."""
    return [["" if v is None else json.dumps(v) if isinstance(v, list) else str(v) for v in row] for row in rows]


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch) -> None:
    """Files new.FORMAT of `TABLE`, and a model of `CLASSES` as the run "model", in blocks of two texts."""
    monkeypatch.setattr(predict, "load", lambda *given: counting_model(CLASSES))
    monkeypatch.setattr(predict, "trained_reading", lambda run: {})
    monkeypatch.setattr(predictor, "MAX_TEXTS", 2)
    monkeypatch.chdir(tmp_path)
    table = pa.table(TABLE)
    pq.write_table(table, "new.parquet", row_group_size=3)
    Path("new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    for suffix, delimiter in DELIMITERS.items():
        with Path(f"new.{suffix}").open("w", newline="", encoding="utf-8") as file:
            rows = as_cells([list(row.values()) for row in table.to_pylist()])
            csv.writer(file, delimiter=delimiter).writerows([list(TABLE), *rows])


def read(path: str) -> list[dict]:
    """Read a file of predictions."""
    data, form = Path(path).read_bytes(), path.removesuffix(".gz").rpartition(".")[2]
    if form == "parquet":
        return pq.read_table(path).to_pylist()
    text = (gzip.decompress(data) if path.endswith(".gz") else data).decode()
    if form == "jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=DELIMITERS[form]))


def refused(monkeypatch, capsys, *arguments: object) -> str:
    assert call(predict.main, monkeypatch, "model", *arguments) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert not list(Path().glob("out*"))
    return line


@pytest.mark.parametrize("given", FORMATS)
@pytest.mark.parametrize("written", FORMATS)
def test_all_columns_are_kept_in_order_in_every_format(given, written, monkeypatch):
    output = f"out.{written}"
    assert call(predict.main, monkeypatch, "model", f"new.{given}", "--keep-all", "--output", output) == 0
    found = read(output)
    assert [row["prediction"] or None for row in found] == ["=A1", None, "C", "-1", "=A1"]
    assert list(found[0])[-len(TABLE) :] == list(TABLE)
    kept, expected = [[row[name] for name in TABLE] for row in found], [*zip(*TABLE.values(), strict=True)]
    if given in DELIMITERS or written in DELIMITERS:  # cells have no types
        assert as_cells(kept) == as_cells(expected)
    else:
        assert kept == [list(row) for row in expected]


@pytest.mark.parametrize("given", FORMATS)
def test_columns_of_files_that_are_mapped_from_the_cache_are_kept(given, monkeypatch):
    monkeypatch.setattr(readers, "MAX_IN_MEMORY", 0)
    assert call(predict.main, monkeypatch, "model", f"new.{given}", "--keep-all", "--output", "out.parquet") == 0
    kept = [[row[name] for name in TABLE] for row in read("out.parquet")]
    assert as_cells(kept) == as_cells([*zip(*TABLE.values(), strict=True)])


def test_named_columns_are_kept_in_the_given_order(monkeypatch):
    given = ("model", "new.csv", "--keep", "name", "--keep", "number", "--output", "out.jsonl")
    assert call(predict.main, monkeypatch, *given) == 0
    assert list(read("out.jsonl")[0])[-3:] == ["not_predicted", "name", "number"]


def test_columns_of_multi_label_predictions_are_kept(monkeypatch):
    monkeypatch.setattr(predict, "load", lambda *given: counting_model(CLASSES, [0.6] * 3))
    assert call(predict.main, monkeypatch, "model", "new.csv", "--keep", "name", "--output", "out.parquet") == 0
    assert [row["name"] for row in read("out.parquet")] == TABLE["name"]


def test_parquet_keeps_its_types_and_text_formats_refuse_what_they_cannot_hold(monkeypatch, capsys):
    moment = datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "text": pa.array(["a", "b", None]).dictionary_encode(),
            "when": pa.array([moment, None, moment], pa.timestamp("ms", "UTC")),
            "day": [moment.date(), None, None],
            "price": [Decimal("1.50"), None, Decimal("-2.00")],
            "kind": pa.array(["x", None, "x"]).dictionary_encode(),
            "vector": pa.array([[0.1, 0.2], None, [float("nan"), 1.0]], pa.list_(pa.float32(), 2)),
            "image": [b"\xff\xd8", None, b""],
            "nested": [{"a": 1}, None, {"a": 2}],
        }
    )
    pq.write_table(table, "types.parquet")
    assert call(predict.main, monkeypatch, "model", "types.parquet", "--keep-all", "--output", "out.parquet") == 0
    found = pq.read_table("out.parquet")
    for name in ("when", "day", "price", "vector", "image", "nested"):
        assert found[name].type == table[name].type
    assert found["image"].to_pylist() == table["image"].to_pylist()
    assert found["kind"].to_pylist() == ["x", None, "x"]
    Path("out.parquet").unlink()
    given = ("types.parquet", "--output", "out.csv", "--keep")
    assert "'nested' (--keep) of type struct" in refused(monkeypatch, capsys, *given, "nested")
    assert "'image' (--keep) is not in UTF-8 in row 1" in refused(monkeypatch, capsys, *given, "image")
    kept = [option for name in ("when", "day", "price", "kind", "vector") for option in ("--keep", name)]
    assert call(predict.main, monkeypatch, "model", "types.parquet", *kept, "--output", "out.csv") == 0
    first, _, last = read("out.csv")
    assert first["when"].startswith("2024-02-29 12:30:00")
    assert (first["day"], first["price"], first["kind"], first["vector"]) == ("2024-02-29", "1.50", "x", "[0.1, 0.2]")
    assert last["vector"] == "[null, 1.0]"


def test_equal_names_are_refused_and_a_prefix_separates_them(monkeypatch, capsys):
    Path("labelled.csv").write_text("id,text,label,prediction\n7,a,A,old\n8,b,B,older\n")
    given = ("labelled.csv", "--id", "id", "--output", "out.csv", "--keep-all")
    assert "'label': put a prefix" in refused(monkeypatch, capsys, *given)
    assert call(predict.main, monkeypatch, "model", *given, "--keep-prefix", "input_") == 0
    found = read("out.csv")
    assert [row["input_prediction"] for row in found] == ["old", "older"]
    assert [row["input_id"] for row in found] == [row["id"] for row in found] == ["7", "8"]


def test_all_columns_do_not_repeat_the_ids(monkeypatch):
    Path("ids.csv").write_text("id,text,other\n7,a,x\n")
    assert call(predict.main, monkeypatch, "model", "ids.csv", "--id", "id", "--keep-all", "--output", "out.csv") == 0
    (row,) = read("out.csv")
    assert (row["id"], *list(row.values())[-2:]) == ("7", "a", "x")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--keep", "nome"], "Did you mean 'name'?"),
        (["--keep", "name", "--keep-all"], "--keep has no effect with --keep-all"),
        (["--keep", "name", "--keep", "name"], "--keep name is given 2 times"),
        (["--keep-prefix", "x"], "--keep-prefix has no effect"),
        (["--escape-formulas", "--output", "out.jsonl"], "--escape-formulas has no effect on jsonl"),
        (["--escape-formulas"], "--escape-formulas has no effect on parquet"),
    ],
)
def test_options_without_effect_and_unknown_columns_are_refused(arguments, line, monkeypatch, capsys):
    assert line in refused(monkeypatch, capsys, "new.csv", *arguments)


def test_a_column_that_cannot_be_read_is_named_with_what_to_do(monkeypatch, capsys):
    Path("nested.jsonl").write_text('{"text": "a", "meta": {"x": 1}, "name": "y"}\n')
    line = refused(monkeypatch, capsys, "nested.jsonl", "--keep-all")
    assert "'meta' holds dict, not text. Name the columns to keep with --keep" in line
    line = refused(monkeypatch, capsys, "nested.jsonl", "--keep-all", "--text", "text,name")
    assert "'meta' holds dict, not text. Name the columns to keep with --keep" in line
    assert call(predict.main, monkeypatch, "model", "nested.jsonl", "--keep", "name", "--output", "out.csv") == 0


def test_infinity_is_refused_in_json(monkeypatch, capsys):
    pq.write_table(pa.table({"text": ["a", "b"], "x": [0.5, float("inf")]}), "infinite.parquet")
    given = ("infinite.parquet", "--keep", "x", "--output")
    assert "infinity, which JSON cannot hold, in row 2" in refused(monkeypatch, capsys, *given, "out.jsonl")
    assert call(predict.main, monkeypatch, "model", *given, "out.csv") == 0
    assert [float(row["x"]) for row in read("out.csv")] == [0.5, float("inf")]


def test_keys_that_only_later_json_lines_have_are_kept(monkeypatch):
    Path("late.jsonl").write_text('{"text": "a"}\n' * 5 + '{"text": "b", "late": "x"}\n')
    assert call(predict.main, monkeypatch, "model", "late.jsonl", "--keep-all", "--output", "out.jsonl") == 0
    assert [row["late"] for row in read("out.jsonl")] == [None] * 5 + ["x"]
    Path("array.json").write_text('[{"text": "a"}, {"text": "b", "late": "x"}]')
    assert column_names(Path("array.json")) == ["text", "late"]


@pytest.mark.parametrize("suffix", ["csv", "tsv.gz"])
def test_formulas_are_escaped_on_request_only(suffix, monkeypatch):
    escaped = ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "\r=1", "'=x"]
    unchanged = ["-5", "+1.5e3", "a=1", "'quoted'"]
    with Path("cells.csv").open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows([["text", "cell", "@head"], *(["a", cell, "x"] for cell in escaped + unchanged)])
    output = f"out.{suffix}"
    given = ("model", "cells.csv", "--id", "cell", "--keep-all", "--output", output)
    assert call(predict.main, monkeypatch, *given) == 0
    assert [row["cell"] for row in read(output)] == escaped + unchanged
    assert call(predict.main, monkeypatch, *given, "--escape-formulas") == 0
    found = read(output)
    for name in ("cell", "id"):
        assert [row[name] for row in found] == [*(f"'{cell}" for cell in escaped), *unchanged]
    assert {row["prediction"] for row in found} == {"'=A1"}
    assert list(found[0])[-1] == "'@head"
