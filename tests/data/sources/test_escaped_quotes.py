"""CSV files whose quotation marks inside texts follow a backslash, as Spark and MySQL write them."""

import csv
import io

import pytest

from conftest import refused
from counterpoise.data import readers
from counterpoise.data.sources.files import FileSource

TEXTS = {
    "one word": 'a "b" c',
    "at the start": '"b" c',
    "at the end": 'c "b"',
    "with a delimiter": 'he said "b, c", or so',
    "with a line break": 'he said "b\nc", or so',
    "JSON": '{"a": ["b", "c"]}',
    "and a backslash": 'C:\\new "b"\\',
    "alone": '"',
}


def exported(texts, quoting) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=quoting, doublequote=False, escapechar="\\", lineterminator="\n")
    writer.writerows([("text", "label"), *((text, "ab"[row % 2]) for row, text in enumerate(texts))])
    return out.getvalue()


@pytest.mark.parametrize("block", [2**22, 100], ids=["one block", "many blocks"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC, csv.QUOTE_MINIMAL])
@pytest.mark.parametrize("kind", TEXTS)
def test_escaped_quotation_marks_are_text(tmp_path, monkeypatch, kind, quoting, block):
    monkeypatch.setattr(readers.files, "BLOCK", block)
    texts = [TEXTS[kind] if row % 5 == 2 else f"row {row}, as usual" for row in range(40)]
    (tmp_path / "a.csv").write_text(exported(texts, quoting))
    split = FileSource(str(tmp_path / "a.csv"), escape="\\").load()["train"]
    assert split.texts.to_pylist() == texts
    assert split.labels.to_pylist() == ["a", "b"] * 20


@pytest.mark.parametrize("kind", [kind for kind in TEXTS if kind not in ("at the end", "alone")])
def test_escaped_quotation_marks_are_refused_with_the_setting_that_reads_them(tmp_path, kind):
    texts = [TEXTS[kind] if row % 5 == 2 else f"row {row}, as usual" for row in range(40)]
    (tmp_path / "a.csv").write_text(exported(texts, csv.QUOTE_ALL))
    assert "data.escape" in refused(FileSource(str(tmp_path / "a.csv")))


@pytest.mark.parametrize("text", ["C:\\folder\\", 'quoted "path" C:\\', "a \\\\ b", "\\"])
def test_a_backslash_is_text_without_the_setting(tmp_path, text):
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *[(text, "a"), (text, "b")] * 5])
    (tmp_path / "a.csv").write_text(out.getvalue())
    assert set(FileSource(str(tmp_path / "a.csv")).load()["train"].texts.to_pylist()) == {text}
