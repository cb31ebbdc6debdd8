"""Odd files: each is read to the right rows, or refused in one line that names the place and the setting."""

import bz2
import csv
import gzip
import io
import json
import logging
import lzma
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from conftest import refused
from counterpoise.data import readers
from counterpoise.data.download import Wheel
from counterpoise.data.sources.files import FileSource
from counterpoise.errors import UserError

TEXTS = [f"text {row}, of several words" for row in range(90)]
LABELS = [("spam", "ham", "ham")[row % 3] for row in range(90)]
WESTERN = [
    "déjà vu à Paris",
    "Größe und Maß",
    "mañana señor",
    "“curly” 5 €",
    "naïve café",
    "ação não é",
    "ålesund",
]


def as_csv(rows, header=("text", "label"), **options) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, **options).writerows([header, *rows] if header else rows)
    return out.getvalue()


def written(path, data: str | bytes, encoding="utf-8") -> str:
    path.write_bytes(data if isinstance(data, bytes) else data.encode(encoding))
    return str(path)


def train(file, **options):
    return FileSource(str(file), **options).load()["train"]


@pytest.fixture(params=[2**22, 300], ids=["one block", "many blocks"])
def block(request, monkeypatch):
    monkeypatch.setattr(readers.files, "BLOCK", request.param)


# Quotation marks


def stray_quotes(style: str, first: int, last: int, order: list[int]) -> str:
    """Return a CSV of 90 rows with an unclosed quotation mark in row `first`, and another one in row `last`."""
    lines = []
    for row, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True)):
        text = text.replace(",", "")
        if row == first:
            text = f'"{text}'
        if row == last:
            text = {"end": f'{text}"', "middle": text.replace(" of", ' "of'), "start": f'"{text}', "none": text}[style]
        lines.append(",".join([text, label][place] for place in order))
    return "\n".join([",".join(["text", "label"][place] for place in order), *lines]) + "\n"


@pytest.mark.parametrize("order", [[0, 1], [1, 0]], ids=["text first", "text last"])
@pytest.mark.parametrize("style", ["end", "middle", "start", "none"])
@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 89), (3, 43), (20, 89), (88, 89)])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_unclosed_quote_is_refused_with_its_line_and_read_without_quoting(
    tmp_path, block, order, style, first, last, end
):
    file = written(tmp_path / "a.csv", stray_quotes(style, first, last, order).replace("\n", end))
    message = refused(FileSource(file))
    assert f"line {first + 2}" in message
    assert "data.quote=null" in message
    assert len(train(file, quote=None)) == 90


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
@pytest.mark.parametrize("columns", [["id", "text", "label"], ["label", "id", "text"], ["text", "label", "note"]])
def test_an_unclosed_quote_in_any_column_is_refused(tmp_path, name, columns):
    delimiter = "\t" if "tsv" in name else ","
    values = {"id": range(40), "text": [f"say {row}" for row in range(40)], "label": LABELS[:40], "note": ["-"] * 40}
    for place in columns:
        rows = [[str(values[column][row]) for column in columns] for row in range(40)]
        rows[5][columns.index(place)] = '"' + rows[5][columns.index(place)]
        rows[30][columns.index(place)] += '"'
        data = "\n".join(delimiter.join(row) for row in [columns, *rows]).encode()
        file = written(tmp_path / name, gzip.compress(data) if name.endswith(".gz") else data)
        assert "line 7" in refused(FileSource(file))


@pytest.mark.parametrize("seed", range(20))
def test_correctly_quoted_texts_of_several_lines_are_read(tmp_path, block, seed):
    chance = random.Random(seed)
    pieces = ["a", ", ", '"', "\n", "\n\n", ' "b" ', "Dear John,\nhow are you", "x;y", "1,2\n3", "é"]
    texts = ["." + "".join(chance.choices(pieces, k=6)) + "." for _ in range(60)]
    rows = [(text, f"class{row % 4}") for row, text in enumerate(texts)]
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        for header, lines in ((("text", "label"), rows), (("label", "text"), [row[::-1] for row in rows])):
            split = train(written(tmp_path / "a.csv", as_csv(lines, header, quoting=quoting)))
            assert split.texts.to_pylist() == texts
            assert split.labels.to_pylist() == [label for _, label in rows]


def test_line_ends_in_quoted_texts_are_kept_where_blocks_end(tmp_path, monkeypatch):
    texts = ["one\r\ntwo", "z\r\r\n\rz", "a\r\n\r\nb"] * 5
    file = written(tmp_path / "a.csv", as_csv([(text, "x") for text in texts], quoting=csv.QUOTE_ALL))
    for block in range(40, 80):
        monkeypatch.setattr(readers.files, "BLOCK", block)
        assert train(file).texts.to_pylist() == texts


def test_quotes_inside_fields_are_text(tmp_path):
    file = written(tmp_path / "a.csv", 'text,label\na 5" pipe,x\nthe "best" one,y\n"quoted" start,x\n')
    assert train(file).texts.to_pylist()[:2] == ['a 5" pipe', 'the "best" one']


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_behind_a_closing_quote_is_a_notice(tmp_path, block, caplog, end):
    rows = ["text,label", *["a,x"] * 50, '"Great" film,y', '"said ""no""",x', '"b\nc",y', '"The" end,x']
    split = train(written(tmp_path / "a.csv", end.join(rows)))
    assert len(split) == 54
    [notice] = split.notices
    assert "lines 52, 56" in notice
    assert "data.quote=null" in notice


def test_an_empty_line_is_an_empty_text_where_there_is_one_column(tmp_path):
    written(tmp_path / "a.csv", "text\na\n\nb\n")
    table = readers.read_columns(tmp_path / "a.csv", "text", [])
    assert table["text"].to_pylist() == [b"a", b"", b"b"]


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json"])
@pytest.mark.parametrize("gz", ["", ".gz"])
def test_the_encoding_is_detected(tmp_path, block, encoding, suffix, gz):
    texts = [f"{text} number {row}" for row in range(20) for text in WESTERN]
    rows = [(text, f"é{row % 3}") for row, text in enumerate(texts)]
    if suffix in ("csv", "tsv"):
        data = as_csv(rows, delimiter="," if suffix == "csv" else "\t")
    else:
        objects = [json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in rows]
        data = "\n".join(objects) if suffix == "jsonl" else f"[{', '.join(objects)}]"
    raw = data.encode(encoding)
    file = written(tmp_path / f"a.{suffix}{gz}", gzip.compress(raw) if gz else raw)
    split = train(file)
    assert split.texts.to_pylist() == texts
    assert split.labels.to_pylist() == [label for _, label in rows]
    assert split.dropped == {}


def test_a_legacy_encoding_is_named_with_its_share_and_examples(tmp_path, caplog):
    rows = [("café", "spam")] * 11 + [("plain", "ham")] * 80
    split = train(written(tmp_path / "a.csv", as_csv(rows), "latin-1"))
    assert len(split) == 91
    [notice] = [message for message in caplog.messages if "cp1252" in message]
    assert "11 of 92 lines (12%)" in notice
    assert "'café'" in notice
    assert "data.encoding" in notice


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("привет, как дела", "cp1251"),
        ("привет, как дела", "koi8-r"),
        ("καλημέρα κόσμε", "cp1253"),
        ("שלום עולם", "cp1255"),
        ("مرحبا بالعالم", "cp1256"),
        ("今天天气很好我们去公园", "gb18030"),
        ("今日は天気がいいです", "shift_jis"),
        ("오늘 날씨가 좋다", "euc-kr"),
        ("zażółć gęślą jaźń, mąka", "cp1250"),
        ("déjà vu à la carte, très bien", "cp850"),
        ("déjà vu, très bien été", "mac_roman"),
    ],
)
def test_an_encoding_that_cannot_be_determined_is_refused_and_can_be_set(tmp_path, text, encoding):
    file = written(tmp_path / "a.csv", as_csv([(text, "x"), ("b", "y")] * 20), encoding)
    message = refused(FileSource(file))
    assert "data.encoding" in message
    assert "20 of 41 lines" in message
    assert train(file, encoding=encoding).texts[0].as_py() == text


@pytest.mark.parametrize(("encoding", "fault"), [("klingon", "klingon"), ("base64", "base64"), ("", "''"), (3, "3")])
def test_an_unknown_encoding_is_refused(tmp_path, encoding, fault):
    assert fault in refused(FileSource(written(tmp_path / "a.csv", as_csv([("a", "x")])), encoding=encoding))


def test_bytes_that_the_given_encoding_lacks_are_refused(tmp_path):
    file = written(tmp_path / "a.csv", b"text,label\na\x81,x\n")
    assert "data.encoding" in refused(FileSource(file, encoding="cp1252"))


def test_a_few_damaged_rows_of_a_utf8_file_do_not_change_its_encoding(tmp_path):
    rows = "".join(f"élève {row},x\n" for row in range(100)).encode() + b"\xff broken,x\n"
    split = train(written(tmp_path / "a.csv", b"text,label\n" + rows))
    assert len(split) == 100
    assert split.dropped == {"with a text that is not UTF-8": 1}


# Compression and other formats


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json"])
def test_gzip_is_read_under_any_name(tmp_path, name):
    data = as_csv([("a", "x")], delimiter="\t" if "tsv" in name else ",")
    if "json" in name:
        data = '{"text": "a", "label": "x"}\n'
    assert len(train(written(tmp_path / name, gzip.compress(data.encode())))) == 1


FRAME = pd.DataFrame({"text": [f"text {row}" for row in range(100)], "label": ["x", "y"] * 50})


def archive(write: Callable[[BinaryIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def zipped(*names: str) -> bytes:
    """A ZIP archive; that of an Excel workbook has the file xl/workbook.xml."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name in names:
            target.writestr(name, FRAME.to_csv())
    return buffer.getvalue()


def tar(buffer: BinaryIO) -> None:
    with tarfile.open(fileobj=buffer, mode="w") as target:
        target.addfile(tarfile.TarInfo("a.csv"), io.BytesIO())


def arrow(buffer: BinaryIO, new: Callable[..., pa.RecordBatchReader]) -> None:
    table = pa.Table.from_pandas(FRAME)
    with new(buffer, table.schema) as target:
        target.write_table(table)


OTHER_FORMATS = {
    "an Excel workbook": [zipped("[Content_Types].xml", "xl/workbook.xml"), b"\xd0\xcf\x11\xe0" + b"\0\xff" * 50],
    "a Word document": [zipped("word/document.xml")],
    "a ZIP archive": [zipped("a.csv"), zipped("a.csv")[:500]],
    "an empty ZIP archive": [zipped()],
    "a Parquet file": [archive(FRAME.to_parquet)],
    "compressed by xz": [lzma.compress(FRAME.to_csv().encode())],
    "compressed by bzip2": [bz2.compress(FRAME.to_csv().encode())],
    "compressed by zstd": [pa.compress(FRAME.to_csv().encode(), "zstd", asbytes=True)],
    "a tar archive": [archive(tar)],
    "a pickle": [pickle.dumps(FRAME, protocol) for protocol in range(2, 6)],
    "an Arrow file": [archive(FRAME.to_feather), archive(lambda buffer: arrow(buffer, pa.ipc.new_file))],
    "an Arrow stream": [archive(lambda buffer: arrow(buffer, pa.ipc.new_stream))],
    "an ORC file": [archive(lambda buffer: pa.orc.write_table(pa.Table.from_pandas(FRAME), buffer))],
    "a NumPy array": [archive(lambda buffer: np.save(buffer, np.arange(50)))],
    "a PNG image": [b"\x89PNG\r\n\x1a\n" + b"\0\xff" * 50],
    "a JPEG image": [b"\xff\xd8\xff\xe0" + b"\0\x10JFIF" * 9],
    "a GIF image": [b"GIF89a\x14\0\x14\0" + b"\0\xff" * 50],
    "a SQLite database": [b"SQLite format 3\0" + b"\0\1" * 50],
    "a PDF document": [b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"],
}


@pytest.mark.parametrize(("kind", "data"), [(kind, data) for kind in OTHER_FORMATS for data in OTHER_FORMATS[kind]])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv.gz", "a.jsonl", "a.json", "a.parquet"])
@pytest.mark.parametrize("encoding", ["auto", "utf-8"])
def test_a_file_of_another_format_is_named(tmp_path, name, kind, data, encoding):
    if name == "a.parquet" and (kind == "a Parquet file" or encoding != "auto"):
        pytest.skip("it is the format, or the encoding has no effect")
    wanted = "Parquet" if name == "a.parquet" else "text"
    content = gzip.compress(data) if name.endswith(".gz") else data
    line = refused(FileSource(written(tmp_path / name, content), encoding=encoding))
    assert f"{name} is {kind}, not a {wanted} file: " in line


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_file_of_an_unknown_format_is_refused(tmp_path, name, seed):
    data = b"\x01" + np.random.default_rng(seed).bytes(1000 * 4**seed)
    assert "file: " in refused(FileSource(written(tmp_path / name, data)))


def test_a_text_file_with_the_suffix_of_parquet_is_named(tmp_path):
    assert "is a text file, not a Parquet file" in refused(FileSource(written(tmp_path / "a.parquet", FRAME.to_csv())))


@pytest.mark.parametrize("start", ["ORC", "BZh9", "GIF8", "FEA1", "PAR1", "Obj", "Rar!", "7z", "PK"])
def test_a_text_that_begins_like_another_format_is_read(tmp_path, start):
    file = written(tmp_path / "a.csv", f"{start},text,label\n1,a,x\n2,b,y\n")
    assert len(train(file)) == 2


def test_a_text_with_a_word_of_tar_archives_at_their_place_is_read(tmp_path):
    data = "text,label\n" + "w" * 244 + " custard,x\nb,y\n"
    assert data.index("ustar") == 257
    assert len(train(written(tmp_path / "a.csv", data))) == 2


@pytest.mark.parametrize("delimiter", ["\x01", "\x1f"])
def test_a_delimiter_can_be_a_control_character(tmp_path, delimiter):
    file = written(tmp_path / "a.csv", as_csv([("a b", "x"), ("c d", "y")] * 50, delimiter=delimiter))
    assert len(train(file, delimiter=delimiter)) == 100


def test_utf16_without_a_byte_order_mark_is_read_with_the_setting_that_is_named(tmp_path):
    file = written(tmp_path / "a.csv", as_csv([("日本語", "x"), ("中文", "y")] * 50), "utf-16-le")
    assert "data.encoding" in refused(FileSource(file))
    assert len(train(file, encoding="utf-16-le")) == 100


# Headers and delimiters


@pytest.mark.parametrize("line", ["sep=;\n", "sep=;\r\n", "SEP=;\n", '"sep=;"\r\n', "\ufeffsep=;\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_first_line_that_names_the_delimiter_is_honoured(tmp_path, line, encoding):
    file = written(tmp_path / "a.csv", line + "text;label\na, b;x\nc;y\n", encoding)
    assert train(file).texts.to_pylist() == ["a, b", "c"]
    assert train(file, delimiter=";").texts.to_pylist() == ["a, b", "c"]
    wide = written(tmp_path / "b.csv", line + "text;label\na, b;x\nc;y;z\n", encoding)
    assert "row 2: " in refused(FileSource(wide))


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_another_delimiter_is_named(tmp_path, delimiter):
    file = written(tmp_path / "a.csv", as_csv([("a", "x")], delimiter=delimiter))
    assert f"data.delimiter={delimiter!r}" in refused(FileSource(file))
    assert "data.delimiter" not in refused(FileSource(file, text="body"))


def test_a_file_without_a_header_is_named_and_read_with_names(tmp_path):
    file = written(tmp_path / "a.csv", as_csv([("good", "pos"), ("bad", "neg"), ("ugly", "neg")], header=None))
    assert "data.columns=" in refused(FileSource(file))
    assert "data.columns=" not in refused(FileSource(file, text="good"))
    split = train(file, columns=["text", "label"])
    assert split.texts.to_pylist() == ["good", "bad", "ugly"]
    assert split.rows.tolist() == [1, 2, 3]
    wide = written(tmp_path / "b.csv", "good,pos\nbad,neg,x\n")
    assert "row 2: " in refused(FileSource(wide, columns=["text", "label"]))
    assert "data.columns" in refused(FileSource(file, columns="text"))


@pytest.mark.parametrize("names", [["text", "label"], ["label", "id", "text"]])
@pytest.mark.parametrize("form", [{}, {"quoting": csv.QUOTE_ALL}, {"delimiter": ";"}])
def test_column_names_in_another_order_than_the_header_are_refused(tmp_path, names, form):
    values = {"text": "good", "label": "x", "id": "7"}
    data = as_csv([[values[name] for name in names]] * 10, names, **form)
    file, options = written(tmp_path / "a.csv", data), {"delimiter": form.get("delimiter")}
    assert "another order: remove data.columns" in refused(FileSource(file, columns=names[::-1], **options))
    assert len(train(file, columns=names, **options)) == 10


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_a_column_name_that_occurs_twice_is_refused(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 3, ["text", "label", "label"]), path)
    else:
        written(path, as_csv([("a", "x", "y")], ("text", "label", "label"), delimiter="," if kind == "csv" else "\t"))
    assert "2 columns named 'label'" in refused(FileSource(str(path)))


def test_unused_columns_may_share_a_name(tmp_path):
    assert len(train(written(tmp_path / "a.csv", "text,,,label\na,,,x\n"))) == 1


# JSON

OBJECTS = [{"text": f"text {row}", "label": "xy"[row % 2], "more": [None, {"a": 1}]} for row in range(50)]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("before", ["", "\n \t", "\ufeff"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz"])
def test_an_array_of_objects_is_read(tmp_path, name, before, indent):
    data = (before + json.dumps(OBJECTS, indent=indent)).encode()
    split = train(written(tmp_path / name, gzip.compress(data) if name.endswith(".gz") else data))
    assert split.texts.to_pylist() == [each["text"] for each in OBJECTS]


@pytest.mark.parametrize("other", ["null", "3", "true", '"x"', "nul", "{", "]", "NaN", "\0"])
@pytest.mark.parametrize("place", [0, 1, 25, 50])
@pytest.mark.parametrize("lead", ["", " \t"])
def test_a_line_that_is_not_an_object_is_refused_with_its_row(tmp_path, block, other, place, lead):
    lines = [json.dumps(each) for each in OBJECTS]
    lines.insert(place, lead + other)
    message = refused(FileSource(written(tmp_path / "a.jsonl", "\n".join(lines))))
    assert f"row {place + 1} " in message


@pytest.mark.parametrize("data", ["[]", "[ ]"])
def test_an_empty_array_has_no_rows(tmp_path, data):
    assert refused(FileSource(written(tmp_path / "a.json", data))) == "a.json has no rows"


def test_a_key_that_occurs_twice_is_refused(tmp_path):
    assert "twice" in refused(FileSource(written(tmp_path / "a.json", '[{"text": "a", "text": "b", "label": "x"}]')))


@pytest.fixture(autouse=True)
def _log_level(caplog):
    caplog.set_level(logging.WARNING)


# Dropped rows


@pytest.mark.parametrize("kind", ["not UTF-8", "without a text"])
@pytest.mark.parametrize(
    ("spam", "ham", "stops"),
    [(11, 0, True), (1, 0, False), (2, 0, False), (10, 0, True), (0, 6, True), (0, 3, False), (3, 2, False)],
)
def test_dropped_rows_are_counted_by_class_and_limited(tmp_path, caplog, kind, spam, ham, stops):
    """20 rows of spam, 80 of ham: at most 5 rows and half of a class may be dropped."""
    bad = b"\xff" if kind == "not UTF-8" else b""
    texts = [bad if row < spam else b"text" for row in range(20)] + [bad if row < ham else b"t" for row in range(80)]
    lines = [text + (b",spam" if row < 20 else b",ham") for row, text in enumerate(texts)]
    file = written(tmp_path / "a.csv", b"\n".join([b"text,label", *lines]))
    expected = [f"'{name}' {lost} of {size}" for name, lost, size in (("spam", spam, 20), ("ham", ham, 80)) if lost]
    if stops:
        message = refused(FileSource(file, encoding="utf-8"))
        assert "data.max_dropped" in message
        assert all(part in message for part in expected)
    split = train(file, encoding="utf-8", max_dropped=1 if stops else 0.05)
    assert len(split) == 100 - spam - ham
    assert all(part in caplog.text and part in split.notices[-1] for part in expected)


def test_a_class_of_three_rows_must_not_lose_most_of_them(tmp_path):
    rows = [("a", "common")] * 95 + [("", "rare"), ("", "rare"), ("b", "rare")]
    file = written(tmp_path / "a.csv", as_csv(rows))
    assert "'rare' 2 of 3" in refused(FileSource(file))
    assert len(train(file, max_dropped=0.7)) == 96


@pytest.mark.parametrize("setting", [-0.1, 1.1, True])
def test_an_invalid_limit_is_refused(tmp_path, setting):
    assert "data.max_dropped" in refused(
        FileSource(written(tmp_path / "a.csv", as_csv([("a", "x")])), max_dropped=setting)
    )


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("copies", [1, 3, 20])
@pytest.mark.parametrize("names", [("text", "label"), ("label", "text"), ("id", "text", "label")])
def test_repeated_headers_are_dropped_and_counted(tmp_path, caplog, suffix, copies, names):
    values = {"text": "good", "label": "x", "id": "7"}
    rows = []
    for copy in range(copies + 1):
        rows += ([names] if copy else []) + [[values[name] for name in names]] * 10
    if suffix == "jsonl":
        data = "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows)
    else:
        data = as_csv(rows, names, delimiter="," if suffix == "csv" else "\t")
    split = train(written(tmp_path / f"a.{suffix}", data))
    assert len(split) == 10 * (copies + 1)
    assert set(split.labels.to_pylist()) == {"x"}
    assert split.dropped == {"with the names of the columns": copies}
    assert " 11" in caplog.text


def test_a_text_that_is_the_name_of_its_column_is_kept(tmp_path):
    file = written(tmp_path / "a.csv", as_csv([("text", "x"), ("b", "label"), ("c", "x")]))
    assert len(train(file)) == 3


@pytest.mark.parametrize("key", ["train", "validation", "test"])
def test_a_file_beside_a_download_is_refused_with_the_source_that_reads_it(tmp_path, key):
    wheel = Wheel("reuters==1.0", "0" * 64, ["data/train.tab", "more/"])
    files = {"train": "data/train.tab", key: written(tmp_path / "mine.csv", as_csv([("a", "x")]))}
    source = FileSource(**files, download=wheel)
    assert "choose data=files" in refused(source)
    with pytest.raises(UserError, match="choose data=files"):
        source.prepare()
