"""Values at the limits of formats and numbers: each is read exactly, or refused in one line."""

import json
import os
import random
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from conftest import refused
from counterpoise.csv_tables import read_csv, write_csv
from counterpoise.data import readers
from counterpoise.data.sources.files import FileSource


def written(path: Path, rows: list[dict] | list[str]) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def as_array(path: Path, rows: list[str]) -> str:
    path.write_text(f"[{','.join(rows)}]")
    return str(path)


@pytest.fixture(params=[2**22, 300], ids=["one block", "many blocks"])
def block(request, monkeypatch):
    monkeypatch.setattr(readers.files, "BLOCK", request.param)


# Numbers


@pytest.mark.parametrize("large", [2**53 + 1, -(2**60), 2**63])
@pytest.mark.parametrize("other", [0.5, 2**64])
@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("write", [written, as_array])
def test_whole_numbers_that_would_be_rounded_are_refused(tmp_path, block, large, other, lists, write):
    labels = [1, 2, large, other, 1, 2] * 20
    rows = [json.dumps({"text": f"t{row}", "label": [label] if lists else label}) for row, label in enumerate(labels)]
    assert "would be rounded" in refused(FileSource(write(tmp_path / "a.json", rows)))


@pytest.mark.parametrize("labels", [[2**53, 2**53 + 1], [2**63 - 1, -(2**63)], [1, 2.0], [2.0, 2**53 - 1]])
def test_numbers_that_are_exact_are_read(tmp_path, labels):
    rows = [{"text": f"t{row}", "label": labels[row % 2]} for row in range(20)]
    assert len(set(FileSource(written(tmp_path / "a.jsonl", rows)).load()["train"].labels.to_pylist())) == 2


@pytest.mark.parametrize("weight", ["1e308", "1e16", "1e-16", "1e-320", "inf", "nan", "-1", "x"])
def test_weights_beyond_the_limits_are_refused(tmp_path, weight):
    (tmp_path / "a.csv").write_text(f"text,label,w\na,x,1\nb,y,{weight}\n")
    message = refused(FileSource(str(tmp_path / "a.csv"), weight="w"))
    assert "row 2" in message
    assert "1e+15" in message


# Structure


@pytest.mark.parametrize("nest", ['{"a":', "[", '{"text":', '{"label":['])
@pytest.mark.parametrize("place", [0, 30])
@pytest.mark.parametrize("write", [written, as_array])
def test_deeply_nested_values_are_refused(tmp_path, nest, place, write):
    rows = [json.dumps({"text": "a", "label": "x"})] * 30
    rows.insert(place, '{"text": "a", "label": ' + nest * 100_000)
    assert "a.json" in refused(FileSource(write(tmp_path / "a.json", rows)))


def surrogates(seed: int) -> tuple[str, bool]:
    """Return the JSON escapes of a text, and whether it has half of a surrogate pair."""
    chance = random.Random(seed)
    pieces = ["a", "é", r"\ud83d\ude00", r"\\", r"\\ud800", r"\"", r"\n", r"\u0041"]
    lone = [r"\ud800", r"\uDFFF", r"\udc00\ud83d", r"\uD83D\u0041"]
    parts = chance.choices(pieces, k=4)
    if damaged := chance.random() < 0.5:
        parts.insert(chance.randrange(5), chance.choice(lone))
    # Two halves must not meet by chance.
    return "x" + ".".join(parts), damaged


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("write", [written, as_array])
def test_rows_with_half_of_a_surrogate_pair_are_dropped_like_others_that_are_not_utf_8(tmp_path, block, seed, write):
    texts = [surrogates(seed * 40 + row) for row in range(40)]
    rows = ['{"text": "%s", "label": "%s"}' % (text, "xy"[row % 2]) for row, (text, _) in enumerate(texts)]  # noqa: UP031
    split = FileSource(write(tmp_path / "a.json", rows), max_dropped=1).load()["train"]
    kept = [row for row, (_, damaged) in enumerate(texts) if not damaged]
    assert split.texts.to_pylist() == [json.loads(f'"{texts[row][0]}"') for row in kept]
    assert [row - 1 for row in split.rows] == kept
    assert split.dropped == {"with a text that is not UTF-8": 40 - len(kept)}


# Names


@pytest.mark.parametrize("delimiter", ["\t", "\\t"])
def test_a_tab_may_be_written_as_an_escape(tmp_path, delimiter):
    (tmp_path / "a.csv").write_text("text\tlabel\na\tx\nb\ty\n")
    assert len(FileSource(str(tmp_path / "a.csv"), delimiter=delimiter).load()["train"]) == 2


def test_a_folder_is_refused_with_the_files_in_it(tmp_path):
    (tmp_path / "a.csv").touch()
    assert "is a folder: name a file in it, such as a.csv" in refused(FileSource(str(tmp_path)))


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    for path in (tmp_path / "a.csv", "/dev/null", "/dev/zero"):
        assert "is a pipe or a device" in refused(FileSource(str(path)))


FORMULAS = ["=1+1", "+SUM(A1)", "-2+3", "@x", "\t=1", "\r=1", "'=1", "''-a", "=cmd|' /C calc'!A0"]
NAMES = ["plain", "-1", "+1.5", "1e5", "'quoted'", "a\rb", "a\nb", "a\r\nb", 'a"b', "a,b", "", "NA", " x "]


@pytest.mark.parametrize("name", FORMULAS + NAMES)
@pytest.mark.parametrize("other", ["b", "a\rb", "=1"])
def test_csv_files_hold_no_formulas_and_give_back_the_names(tmp_path, name, other):
    table = pd.DataFrame({"class": [name, other, "7"], "count": [1, 2, 3], "share": [0.5, float("nan"), 1.0]})
    write_csv(table, tmp_path / "a.csv")
    back = read_csv(tmp_path / "a.csv", "class")
    assert back["class"].tolist() == [name, other, "7"]
    assert back["count"].tolist() == [1, 2, 3]
    assert back["share"].tolist() == pytest.approx([0.5, float("nan"), 1.0], nan_ok=True)
    (cell, *_) = pd.read_csv(tmp_path / "a.csv", dtype=str, na_filter=False)["class"]
    assert (cell != name) == (name in FORMULAS)
    assert cell[:1] not in set("=@\t\r")


def test_arrow_reads_a_json_file_of_exact_floats_by_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(readers.files, "BLOCK", 300)
    monkeypatch.setattr(readers, "MAX_IN_MEMORY", 0)
    rows = [{"text": f"t{row}", "label": "xy"[row % 2], "w": row if row % 2 else row + 0.5} for row in range(200)]
    split = FileSource(written(tmp_path / "a.jsonl", rows), weight="w").load()["train"]
    assert split.weights.tolist() == [row["w"] for row in rows]
    assert isinstance(split.texts, pa.ChunkedArray)
