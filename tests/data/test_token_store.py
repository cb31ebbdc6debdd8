import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from transformers import PreTrainedTokenizerBase

from counterpoise.data import token_store as tokens
from counterpoise.data.token_store import TokenStore, load_tokenizer
from counterpoise.errors import UserError

TEXTS = [
    "word0 alpha1",
    "Word1 unheard-of 两会 🎉",
    " ".join(f"word{i}" for i in range(40)),
    "word3 word4 word5 word6 word7 word8",
    "word9",
]


@pytest.fixture
def tokenizer(tiny_encoder) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_encoder))


def column(texts: list[str], *cuts: int) -> pa.ChunkedArray:
    edges = [0, *cuts, len(texts)]
    chunks = [texts[a:b] for a, b in pairwise(edges)]
    return pa.chunked_array([pa.array(chunk, pa.large_string()) for chunk in chunks])


def tokenise(tokenizer, texts=TEXTS, max_length=8, cuts=()) -> TokenStore:
    return tokens.tokenise(column(texts, *cuts), tokenizer, max_length, "texts")


def rows(store: TokenStore) -> list[list[int]]:
    return [store.tokens[a:b].tolist() for a, b in pairwise(store.offsets)]


@pytest.mark.parametrize("max_length", [3, 8, 64])
def test_each_row_is_what_the_tokenizer_gives_special_tokens_and_truncation_included(tokenizer, max_length):
    expected = tokenizer(TEXTS, truncation=True, max_length=max_length)["input_ids"]
    store = tokenise(tokenizer, max_length=max_length)
    assert rows(store) == expected
    assert len(store) == len(TEXTS)
    assert store.lengths.tolist() == [len(ids) for ids in expected]
    assert {ids[0] for ids in rows(store)} == {tokenizer.cls_token_id}
    assert {ids[-1] for ids in rows(store)} == {tokenizer.sep_token_id}


def test_rows_beyond_one_chunk_are_in_order(tokenizer, monkeypatch):
    monkeypatch.setattr(tokens, "CHUNK", 2)
    assert rows(tokenise(tokenizer)) == tokenizer(TEXTS, truncation=True, max_length=8)["input_ids"]


@pytest.mark.parametrize(("max_length", "truncated"), [(3, 4), (8, 1), (41, 1), (42, 0), (64, 0)])
def test_truncated_texts_are_counted(tokenizer, max_length, truncated):
    assert tokenise(tokenizer, max_length=max_length).truncated == truncated


def test_small_vocabularies_take_two_bytes_a_token(tokenizer):
    assert tokenise(tokenizer).tokens.dtype == np.uint16


def test_the_same_texts_are_tokenised_once(tokenizer, tiny_encoder):
    first = tokenise(tokenizer)
    before = (first.folder / "tokens.bin").stat()
    again = tokenise(load_tokenizer(str(tiny_encoder)))
    after = (again.folder / "tokens.bin").stat()
    assert again.folder == first.folder
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_removed_store_is_built_again(tokenizer):
    store = tokenise(tokenizer)
    shutil.rmtree(store.folder)
    assert rows(tokenise(tokenizer)) == rows(store)


def test_using_the_tokenizer_in_between_does_not_change_the_key(tokenizer):
    first = tokenise(tokenizer)
    tokenizer(TEXTS, padding=True, truncation=True, max_length=5)
    assert tokenise(tokenizer).folder == first.folder


@pytest.mark.parametrize(
    "texts",
    [
        [*TEXTS, "word9"],
        TEXTS[:-1],
        TEXTS[::-1],
        [*TEXTS[:-1], "word8"],
        [*TEXTS[:-1], "word9 "],
        ["word0", " alpha1", *TEXTS[1:]],
    ],
)
def test_other_texts_have_another_key(tokenizer, texts):
    assert tokenise(tokenizer, texts).folder != tokenise(tokenizer).folder


def test_another_length_has_another_key(tokenizer):
    assert tokenise(tokenizer, max_length=9).folder != tokenise(tokenizer, max_length=8).folder


def test_another_tokenizer_has_another_key(tokenizer, tiny_encoder):
    other = load_tokenizer(str(tiny_encoder))
    other.add_tokens(["unheard"])
    assert tokenise(other).folder != tokenise(tokenizer).folder


@pytest.mark.parametrize("cuts", [(1,), (2, 2, 4), (0, 5)])
def test_the_key_does_not_depend_on_how_arrow_cuts_the_column(tokenizer, cuts):
    assert tokenise(tokenizer, cuts=cuts).folder == tokenise(tokenizer).folder


def test_a_slice_of_a_column_is_its_texts_alone(tokenizer):
    part = tokens.tokenise(column(TEXTS).slice(1, 3), tokenizer, 8, "texts")
    assert rows(part) == rows(tokenise(tokenizer))[1:4]


def test_long_texts_are_tokenised_fewer_at_a_time(tokenizer, monkeypatch):
    monkeypatch.setattr(tokens, "CHUNK_BYTES", 30)
    assert [len(chunk) for chunk in tokens._chunks(column(TEXTS), 0)] == [1, 1, 1, 2]
    assert rows(tokenise(tokenizer)) == tokenizer(TEXTS, truncation=True, max_length=8)["input_ids"]


# Interrupted and continued

MANY = [f"word{i % 40} alpha{i % 8} " * (i % 9) + "end" for i in range(101)]


def files(store: TokenStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.folder.iterdir()}


@pytest.fixture
def whole(tokenizer, tmp_path, monkeypatch) -> dict[str, bytes]:
    """The files of a store of `MANY` that was made at once, in another cache."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("COUNTERPOISE_CACHE", str(tmp_path / "elsewhere"))
        return files(tokenise(tokenizer, MANY, 12))


@pytest.fixture
def part(tokenizer, cache, monkeypatch) -> Path:
    """What Ctrl-C leaves after 5 chunks of 10."""
    done = []

    def stop_after_five(*arguments) -> None:
        done.append(arguments)
        if len(done) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(tokens, "CHUNK", 10)
        interrupted.setattr(tokens.Progress, "advance", stop_after_five)
        with pytest.raises(KeyboardInterrupt):
            tokenise(tokenizer, MANY, 12)
    (folder,) = (cache / "tokens").glob("*.part")
    return folder


def test_the_files_are_what_numpy_writes(tokenizer, whole, tmp_path):
    expected = tokenizer(MANY, truncation=True, max_length=12)["input_ids"]
    np.save(tmp_path / "offsets.npy", np.cumsum([0, *map(len, expected)]))
    assert whole["offsets.npy"] == (tmp_path / "offsets.npy").read_bytes()
    assert whole["tokens.bin"] == np.concatenate(expected).astype(np.uint16).tobytes()
    assert sorted(whole) == ["meta.json", "offsets.npy", "tokens.bin"]


def test_an_interrupted_tokenisation_goes_on_where_it_was(tokenizer, part, whole, caplog):
    with caplog.at_level(logging.INFO):
        assert files(tokenise(tokenizer, MANY, 12)) == whole
    assert caplog.messages == ["texts: tokenising goes on after 50 of 101 texts"]
    assert not part.exists()


def cut(name: str, size: int):
    return lambda folder: os.truncate(folder / name, size)


def changed(name: str, place: int):
    def change(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[place] ^= 1
        (folder / name).write_bytes(data)

    return change


def more(name: str, data: bytes):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + data)


@pytest.mark.parametrize(
    ("damage", "rest"),
    [
        (more("tokens.bin", b"abc"), 50),
        (more("offsets.npy", b"abc"), 50),
        (more("journal", b"[60, 70"), 50),
        (more("journal", b"\0\0\xff\n"), 50),
        (cut("tokens.bin", 300), 10),
        (cut("offsets.npy", 128 + 8 * 21), 20),
        (cut("journal", 50), 20),
        (changed("tokens.bin", 250), 10),
        (changed("offsets.npy", 128 + 8 * 31), 30),
        (changed("offsets.npy", 100), None),
        (lambda folder: (folder / "journal").unlink(), None),
        (lambda folder: (folder / "tokens.bin").unlink(), None),
        (lambda folder: (folder / "meta.json").write_text("{}"), 50),
    ],
)
def test_of_a_damaged_part_what_is_whole_is_kept(tokenizer, part, whole, caplog, damage, rest):
    damage(part)
    with caplog.at_level(logging.INFO):
        assert files(tokenise(tokenizer, MANY, 12)) == whole
    assert caplog.messages == ([f"texts: tokenising goes on after {rest} of 101 texts"] if rest else [])


CHILD = """
import logging, sys, time
from pathlib import Path
import pyarrow as pa
from counterpoise.data import token_store as tokens

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
encoder, folder, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
tokenizer = tokens.load_tokenizer(encoder)
texts = [f"word{i % 40} alpha{i % 8} " * (i % 9) + "end" for i in range(101)]
tokens.CHUNK = 10
(folder / name).touch()

def slowly(progress, task, rows):
    (folder / "begun").touch()
    time.sleep(0.2)

if name == "killed":
    tokens.Progress.advance = slowly
while not (folder / {"killed": "waits", "waits": "begun"}[name]).exists():
    time.sleep(0.01)
print(tokens.tokenise(pa.chunked_array([pa.array(texts, pa.large_string())]), tokenizer, 12, "texts").folder)
"""


def test_of_two_processes_one_goes_on_where_the_other_was_killed(tiny_encoder, tmp_path, whole):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    waits, killed = (
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tiny_encoder), str(tmp_path), name],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("waits", "killed")
    )
    while not (tmp_path / "begun").exists():
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.01)
    time.sleep(0.5)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(60) == -signal.SIGKILL
    out, err = waits.communicate(timeout=60)
    assert waits.returncode == 0, err
    first, folder = [line for line in out.splitlines() if line]
    assert first.startswith("texts: tokenising goes on after ")
    assert files(TokenStore.open(Path(folder))) == whole
    assert [path.name for path in Path(folder).parent.iterdir() if path.is_dir()] == [Path(folder).name]


def test_a_pickled_store_holds_its_path_alone(tokenizer):
    store = tokenise(tokenizer, TEXTS * 200)
    pickled = pickle.dumps(store)
    assert len(pickled) < 500
    copy = pickle.loads(pickled)
    assert rows(copy) == rows(store)
    assert copy.truncated == store.truncated


def test_a_length_beyond_the_encoder_is_refused_in_one_line(tokenizer):
    with pytest.raises(UserError, match="at most 64") as told:
        tokenise(tokenizer, max_length=65)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("max_length", [0, -1, 2])
def test_a_length_that_leaves_no_room_for_a_token_is_refused_in_one_line(tokenizer, max_length):
    with pytest.raises(UserError, match=f"max_length={max_length}") as told:
        tokenise(tokenizer, max_length=max_length)
    assert "\n" not in str(told.value)


def test_a_folder_without_a_tokenizer_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no tokenizer") as told:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(told.value)
