"""Files too large for memory: what is read of them is the same, stays on the disk, and is read once."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import refused
from counterpoise.data import arrow_cache, readers
from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.sources.files import FileSource
from counterpoise.data.token_store import load_tokenizer, tokenise
from counterpoise.data.tokenisation import Tokenisation

ROWS = 3000
TEXTS = [f"text {row} " + "two words, " * (row % 7) for row in range(ROWS)]
LABELS = [f"class {row % 5}" for row in range(ROWS)]


@pytest.fixture
def large(monkeypatch):
    """Every file is a large one, of many blocks."""
    monkeypatch.setattr(readers, "MAX_IN_MEMORY", 0)
    monkeypatch.setattr(readers.files, "BLOCK", 2**14)


def written(path: Path, texts=TEXTS, labels=LABELS) -> str:
    rows = [
        {"text": text, "label": label, "key": row} for row, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    if path.suffix == ".parquet":
        table = pa.Table.from_pylist(rows)
        pq.write_table(table.set_column(1, "label", table["label"].dictionary_encode()), path, row_group_size=700)
    elif path.name.endswith(".csv"):
        path.write_text("text,label,key\n" + "".join(f'"{r["text"]}",{r["label"]},{r["key"]}\n' for r in rows))
    else:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def train(file, **options):
    return FileSource(str(file), **{"max_dropped": 1} | options).load()["train"]


def entries(cache: Path, folder: str = "tables") -> list[str]:
    return sorted(p.name for p in (cache / folder).iterdir() if p.is_dir()) if (cache / folder).is_dir() else []


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_a_large_file_gives_the_same_table_as_a_small_one(tmp_path, cache, large, monkeypatch, name):
    bad = [3, 1500, 2999]
    texts = ["" if row in bad else text for row, text in enumerate(TEXTS)]
    file = written(tmp_path / name, texts, ["", *LABELS[1:]])
    with monkeypatch.context() as small:
        small.setattr(readers, "MAX_IN_MEMORY", 2**30)
        expected = train(file, id="key")
    assert not entries(cache)
    split = train(file, id="key")
    assert entries(cache)
    assert split.texts.to_pylist() == expected.texts.to_pylist()
    assert split.labels.equals(expected.labels)
    assert split.ids.equals(expected.ids)
    np.testing.assert_array_equal(split.rows, expected.rows)
    assert split.dropped == expected.dropped == {"without a label": 1, "without a text": 3}
    assert split.texts.type == pa.large_string()
    assert expected.digest is None


def test_the_texts_of_a_large_file_are_not_in_memory_even_where_rows_are_dropped(tmp_path, large):
    texts = ["x" * 2000 if row % 2 else "" for row in range(ROWS)]
    file = written(tmp_path / "a.csv", texts)
    before = pa.total_allocated_bytes()
    split = train(file)
    assert split.texts.nbytes > 2.9e6
    assert pa.total_allocated_bytes() - before < 0.1e6


def test_released_pages_are_read_again(tmp_path, large):
    def resident() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssFile")) * 1024

    texts = ["x" * 5000 + str(row) for row in range(ROWS)]
    split = train(written(tmp_path / "a.csv", texts))
    before = resident()
    assert split.texts.to_pylist() == texts
    grown = resident()
    assert grown - before > 14e6
    arrow_cache.release_pages()
    assert resident() - before < 2e6
    assert split.texts[2999].as_py() == texts[2999]


def test_a_large_file_is_read_once(tmp_path, cache, large, monkeypatch):
    file = written(tmp_path / "a.csv")
    first = train(file)
    monkeypatch.setattr(readers, "read_csv", None)
    again = train(file)
    assert again.texts.equals(first.texts)
    assert len(entries(cache)) == 1


def test_a_copy_of_a_large_file_is_the_same_file(tmp_path, cache, large):
    file = written(tmp_path / "a.csv")
    first = train(file)
    (tmp_path / "b.csv").write_bytes(Path(file).read_bytes())
    assert train(tmp_path / "b.csv").digest == first.digest
    assert len(entries(cache)) == 1


def test_the_cache_key_includes_the_reading_options(tmp_path, cache, large):
    file = written(tmp_path / "a.csv")
    first = train(file)
    assert len(train(file, skip_rows_after_header=2)) == ROWS - 2
    assert train(file, text="label", label="text").texts[1].as_py() == "class 1"
    assert len(entries(cache)) == 3
    # Other columns beside the same texts.
    assert train(file, id="key").digest == first.digest
    assert len({train(file, **options).digest for options in ({}, {"skip_rows_after_header": 2})}) == 2


def test_a_rewritten_file_of_the_same_size_is_read_again(tmp_path, large):
    file = written(tmp_path / "a.csv")
    for letter in "abcdefgh":
        written(tmp_path / "a.csv", [f"text {letter}{row % 10}" for row in range(ROWS)])
        assert train(file).texts[0].as_py() == f"text {letter}0"


def test_the_digest_of_a_file_is_kept_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow_cache, "MIN_FILE_AGE", -1)
    path = tmp_path / "a"
    path.write_text("one")
    first = arrow_cache.content_digest(path)
    with monkeypatch.context() as unreadable:
        unreadable.setattr(arrow_cache.hashlib, "file_digest", None)
        assert arrow_cache.content_digest(path) == first
    times = path.stat()
    path.write_text("two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert arrow_cache.content_digest(path) != first


def test_the_digest_of_a_file_that_was_just_written_is_not_kept(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(arrow_cache, "MIN_FILE_AGE", 1e9)
    (tmp_path / "a").write_text("one")
    arrow_cache.content_digest(tmp_path / "a")
    assert not (cache / "digests").exists()


def test_a_file_that_changes_while_it_is_read_is_reported(tmp_path, cache, large, monkeypatch):
    file = written(tmp_path / "a.csv")

    def growing(path: Path) -> str:
        with path.open("a") as more:
            more.write("late,class 1,9\n")
        return "digest"

    monkeypatch.setattr(readers, "content_digest", growing)
    assert refused(FileSource(file)) == "a.csv changed while it was read: start again when the file is complete"
    assert not entries(cache)


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("a.csv", lambda data: data + b"a,b\n", "cannot read a.csv: row 3001: Expected 3 columns, got 2: a,b"),
        ("a.csv", lambda data: data.replace(b"label", b"Label", 1), "a.csv has no column 'label'"),
        ("a.jsonl", lambda data: data + b"{\n", "cannot read a.jsonl: row 3001 is not JSON"),
        ("a.jsonl.gz", lambda data: data[:-12], "cannot read a.jsonl.gz: Truncated compressed stream"),
        ("a.parquet", lambda data: data[:-12], "cannot read a.parquet: Parquet magic bytes not found"),
    ],
)
def test_errors_in_a_large_file_are_reported_and_nothing_is_cached(tmp_path, cache, large, name, change, expected):
    path = tmp_path / name
    written(path)
    path.write_bytes(change(path.read_bytes()))
    assert refused(FileSource(str(path))).startswith(expected)
    assert not entries(cache)


def test_a_cache_that_cannot_be_written_is_reported(tmp_path, large, monkeypatch):
    file = written(tmp_path / "a.csv")
    (tmp_path / "blocked").touch()
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "blocked" / "cache"))
    message = refused(FileSource(file))
    assert message.startswith("cannot build the cache folder ")
    assert message.endswith("Not a directory; set COUNTERPOISE_CACHE to a writable folder with enough free space")


def test_fractions_that_appear_late_in_a_column_are_read_as_floats(tmp_path, large):
    rows = [{"text": text, "label": row % 3, "w": row} for row, text in enumerate(TEXTS)] + [
        {"text": "last", "label": 1, "w": 0.5}
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = train(tmp_path / "a.jsonl", weight="w")
    assert split.weights[-2:].tolist() == [2999, 0.5]
    assert split.labels[-1].as_py() == "1"


def test_the_data_module_of_a_large_file_equals_that_of_a_small_one(tmp_path, cache, large, tiny_encoder, monkeypatch):
    file = written(tmp_path / "a.csv", ["" if row == 7 else text for row, text in enumerate(TEXTS)])
    tokenizer = load_tokenizer(str(tiny_encoder))

    def made(**options) -> TextDataModule:
        data = TextDataModule(FileSource(file, **options), tokenizer, Tokenisation(16))
        data.prepare_data()
        data.setup()
        return data

    data = made()
    with monkeypatch.context() as small:
        small.setattr(readers, "MAX_IN_MEMORY", 2**30)
        expected = made()
    for name, part in data.splits.items():
        np.testing.assert_array_equal(part.rows, expected.splits[name].rows)
        np.testing.assert_array_equal(part.targets, expected.splits[name].targets)
        some = np.array([5, 0, len(part) - 1])
        assert part.texts(some) == expected.splits[name].texts(some)
        assert part.dataset[some]["input_ids"].equal(expected.splits[name].dataset[some]["input_ids"])
    # Texts that have a digest are neither read nor tokenised for columns beside them.
    assert len(entries(cache, "tokens")) == 2
    made(id="key")
    assert len(entries(cache, "tokens")) == 2


def test_texts_of_one_digest_are_tokenised_once_per_tokenizer_and_length(tiny_encoder):
    tokenizer = load_tokenizer(str(tiny_encoder))
    texts = pa.chunked_array([pa.array(["word1", "word2"], pa.large_string())])
    first = tokenise(texts, tokenizer, Tokenisation(8), "texts", "a")
    assert tokenise(texts, tokenizer, Tokenisation(8), "texts", "a").folder == first.folder
    assert tokenise(texts, tokenizer, Tokenisation(8), "texts", "b").folder != first.folder
    assert tokenise(texts, tokenizer, Tokenisation(9), "texts", "a").folder != first.folder
