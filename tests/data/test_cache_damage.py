"""Damaged cache entries, of every kind and in every file, are named and built again."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

import counterpoise
from counterpoise.data import arrow_cache, checksums, readers, token_store
from counterpoise.data.cache import cached
from counterpoise.data.sources.files import FileSource
from counterpoise.data.token_store import load_tokenizer
from counterpoise.data.tokenisation import Tokenisation
from counterpoise.model.embeddings import cached_embeddings
from counterpoise.model.encoder import EncoderSource

TEXTS = [f"word{row % 40} alpha{row % 8} " * (1 + row % 5) for row in range(300)]


def flip(path: Path, chance: random.Random) -> None:
    """Flip one bit and set the modification time back, as a copying program does."""
    data, times = bytearray(path.read_bytes()), path.stat()
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def cut(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def exchange(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.randbytes(path.stat().st_size))


def replace_by_folder(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path, random.Random], object]] = {
    "flip": flip,
    "cut": cut,
    "empty": lambda path, chance: path.write_bytes(b""),
    "longer": lambda path, chance: path.write_bytes(path.read_bytes() + b"\0"),
    "other": exchange,
    "absent": lambda path, chance: path.unlink(),
    "folder": replace_by_folder,
}
INVALID = [b"", b"\xff\0", b"null", b"3", b"[]", b'{"a": 1}', b'{"a": [1, 2]}', b'{"a": ["x", 1, 2]}', b"[" * 100_000]


def two_files(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "a.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "b.json").write_text("{}")


def never(folder: Path) -> None:
    raise AssertionError("built again")


@pytest.mark.parametrize("file", ["deep/a.bin", "b.json"])
@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_file_is_named_and_the_entry_built_again(file, kind, seed, caplog):
    folder = cached("tokens/x", two_files)
    DAMAGE[kind](folder / file, random.Random(seed))
    assert cached("tokens/x", two_files) == folder
    assert (folder / "deep" / "a.bin").read_bytes() == bytes(range(256)) * 40
    assert (folder / "b.json").read_text() == "{}"
    (notice,) = caplog.messages
    assert str(folder) in notice
    assert file in notice
    assert "\n" not in notice
    assert cached("tokens/x", never) == folder
    assert sorted(path.name for path in folder.parent.iterdir()) == ["x", "x.lock"]


@pytest.mark.parametrize("content", [None, *INVALID])
def test_an_entry_without_valid_checksums_is_built_again(content, caplog):
    path = cached("tokens/x", two_files) / checksums.FILE
    path.unlink() if content is None else path.write_bytes(content)
    cached("tokens/x", two_files)
    assert len(caplog.messages) == 1
    cached("tokens/x", never)


@pytest.mark.parametrize("replace", [Path.touch, Path.mkdir])
def test_a_file_or_an_empty_folder_in_place_of_an_entry_is_replaced(cache, replace, caplog):
    (cache / "tokens").mkdir()
    replace(cache / "tokens/x")
    assert (cached("tokens/x", two_files) / "b.json").is_file()
    assert len(caplog.messages) == 1


def test_a_copied_entry_is_read_once(cache, monkeypatch, caplog):
    folder = cached("tokens/x", two_files)
    shutil.copytree(folder, cache / "copy")
    shutil.rmtree(folder)
    shutil.move(cache / "copy", folder)
    read = []
    crc32 = checksums._crc32
    monkeypatch.setattr(checksums, "_crc32", lambda path: (read.append(path.name), crc32(path))[1])
    for _ in range(3):
        cached("tokens/x", never)
    assert sorted(read) == ["a.bin", "b.json"]
    assert not caplog.messages


def test_a_copied_entry_in_a_read_only_cache_is_found(monkeypatch):
    def read_only(path: Path) -> None:
        raise PermissionError

    folder = cached("tokens/x", two_files)
    monkeypatch.setattr(checksums, "atomic_path", read_only)
    for path in folder.rglob("*"):
        os.utime(path)
    assert cached("tokens/x", never) == folder


def test_opening_an_intact_entry_does_not_read_its_files(monkeypatch):
    cached("tokens/x", two_files)
    monkeypatch.setattr(checksums, "_crc32", lambda path: pytest.fail(f"{path} is read"))
    cached("tokens/x", never)


@pytest.mark.parametrize("content", [*INVALID, b'{"state": [], "sha256": "x"}'])
def test_a_damaged_digest_of_a_file_is_computed_again(tmp_path, cache, monkeypatch, content):
    monkeypatch.setattr(arrow_cache, "MIN_FILE_AGE", -1)
    (tmp_path / "a").write_text("one")
    digest = arrow_cache.content_digest(tmp_path / "a")
    (kept,) = (cache / "digests").iterdir()
    kept.write_bytes(content)
    assert arrow_cache.content_digest(tmp_path / "a") == digest


# What the commands build: token stores, tables, embeddings


@pytest.fixture
def kinds(tiny_encoder, tmp_path, monkeypatch) -> dict[str, Callable[[], list]]:
    """Functions that return the content of an entry of each kind, from the cache if possible."""
    monkeypatch.setattr(readers, "MAX_IN_MEMORY", 0)
    texts = pa.chunked_array([pa.array(TEXTS, pa.large_string())])
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"text": text, "label": f"c{len(text) % 3}"}) + "\n" for text in TEXTS))
    encoder = EncoderSource(str(tiny_encoder), 64).load()

    def store() -> token_store.TokenStore:
        return token_store.tokenise(texts, load_tokenizer(str(tiny_encoder)), Tokenisation(8), "texts")

    def tokens() -> list:
        found = store()
        return [found.tokens.tolist(), found.offsets.tolist(), found.full_lengths.tolist()]

    def tables() -> list:
        split = FileSource(str(file)).load()["train"]
        return [split.texts.to_pylist(), split.labels.to_pylist()]

    def vectors() -> list:
        return [np.asarray(cached_embeddings(lambda: encoder, "key", store(), 0, 64, torch.device("cpu"))).tolist()]

    return {"tokens": tokens, "tables": tables, "vectors": vectors}


@pytest.mark.parametrize("kind", ["tokens", "tables", "vectors"])
@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(n, marks=pytest.mark.soak) for n in range(4, 40))])
def test_damaged_results_are_computed_again(kinds, kind, seed, cache, caplog):
    expected = kinds[kind]()
    (entry,) = (path for path in (cache / kind).iterdir() if path.is_dir())
    chance = random.Random(seed)
    for file in sorted(path.name for path in entry.iterdir()):
        damage = chance.choice(list(DAMAGE))
        DAMAGE[damage](entry / file, chance)
        caplog.clear()
        assert kinds[kind]() == expected, (file, damage)
        notices = [message for message in caplog.messages if "is damaged" in message]
        # A flipped bit in the stored timestamps only has the file read again.
        assert len(notices) == 1 or (file == checksums.FILE and damage == "flip")


def test_every_entry_is_built_by_the_same_function():
    """`cached` verifies what it returns; no other function builds entries of the cache."""
    package = Path(counterpoise.__file__).parent
    assert {path.stem for path in package.rglob("*.py") if "cache_root" in path.read_text()} == {"cache", "arrow_cache"}
