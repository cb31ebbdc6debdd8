"""Tables are written in the format that the suffix names, and read back equal."""

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoise.data.table_writers import Stream, format_of, table_writer
from counterpoise.errors import UserError

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("probability", pa.float32()),
        ("top_labels", pa.list_(pa.string())),
        ("top_probabilities", pa.list_(pa.float32())),
    ]
)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
NUMBER = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = st.lists(
    st.tuples(st.none() | TEXT, st.none() | NUMBER, st.none() | st.lists(TEXT), st.none() | st.lists(NUMBER))
)
SUFFIXES = [".parquet", ".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".CSV", ".Jsonl.GZ"]


def read(path: Path) -> list[list]:
    """Read rows with other libraries than those that wrote them."""
    if path.suffix == ".parquet":
        return [list(row.values()) for row in pq.read_table(path).to_pylist()]
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix.lower() == ".gz" else content).decode()
    if ".jsonl" in path.name.lower():
        rows = [json.loads(line) for line in text.split("\n")[:-1]]
        assert all(list(row) == SCHEMA.names for row in rows)
        return [list(row.values()) for row in rows]
    header, *rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if ".tsv" in path.name.lower() else ",")
    assert header == SCHEMA.names
    converted = (str, float, json.loads, json.loads)
    return [[convert(field) if field else None for convert, field in zip(converted, row, strict=True)] for row in rows]


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(blocks=st.lists(ROWS, max_size=3))
def test_rows_are_read_back_as_they_were_written(suffix, blocks, tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / f"out.table{suffix}"
    with table_writer(path, SCHEMA) as write:
        for rows in blocks:
            columns = list(zip(*rows, strict=True)) or [()] * 4
            write(pa.table([pa.array(c, t) for c, t in zip(columns, SCHEMA.types, strict=True)], schema=SCHEMA))
    expected = [list(row) for rows in blocks for row in rows]
    if "sv" in suffix.lower():  # an empty field is an empty text as well
        expected = [[text or None, *others] for text, *others in expected]
    found = read(path)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert [ours[0], ours[2]] == [theirs[0], theirs[2]]
        for one, other in ((ours[1], theirs[1]), (ours[3], theirs[3])):
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_array_equal(np.float32(one), np.float32(other))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_numbers_have_their_shortest_form_and_nan_is_missing(suffix, tmp_path):
    path = tmp_path / f"out{suffix}"
    with table_writer(path, SCHEMA) as write:
        write(pa.table([["a"], [np.float32(0.1)], [["x"]], [[np.float32(0.7), float("nan")]]], schema=SCHEMA))
    text = path.read_text()
    assert "0.1" in text
    assert "0.10000000149" not in text
    assert "[0.7, null]" in text.replace("0.69999999", "")


@pytest.mark.parametrize(
    "name",
    ["out", "out.xlsx", "out.parquet.gz", "out.csv.xz", "out.gz", "out.json", "out.csv.bak", ".csv", "out.", "a.b"],
)
def test_other_suffixes_are_refused(name, tmp_path):
    with pytest.raises(UserError, match=r"--output .*\.parquet, \.csv, \.tsv or \.jsonl") as error:
        format_of(tmp_path / name, "--output")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_error_leaves_the_earlier_file(suffix, tmp_path):
    path = tmp_path / f"out{suffix}"
    path.write_text("before")

    def fail() -> None:
        with table_writer(path, SCHEMA) as write:
            write(pa.table([["a"], [0.5], [["x"]], [[0.5]]], schema=SCHEMA))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_equal_tables_give_equal_compressed_files_and_a_stream_stays_open(tmp_path):
    for name in ("a.csv.gz", "b.csv.gz"):
        with table_writer(tmp_path / name, SCHEMA):
            pass
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    stream = io.BytesIO()
    with table_writer(Stream(stream, "csv"), SCHEMA):
        pass
    assert stream.getvalue() == b"id,probability,top_labels,top_probabilities\n"
