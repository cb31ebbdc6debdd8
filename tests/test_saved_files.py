"""Damaged, hostile and foreign JSON and YAML files are refused in one line, without an attempt to expand them."""

import os
import random
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from counterpoise.errors import UserError
from counterpoise.saved_files import read_json, read_yaml, reading
from refusals import user_error

BOMB = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (letter, letter, b", ".join([b"*%c" % (letter - 1)] * 9)) for letter in range(98, 115)
)
JUNK = {
    "empty": b"",
    "binary": random.Random(0).randbytes(3000),
    "zeros": b"\0" * 500,
    "null": b"null",
    "number": b"3",
    "list": b"[]",
    "text": b'"x"',
    "deep list": b"[" * 100_000,
    "deep mapping": b'{"a":' * 100_000,
    "latin-1": b'{"a": "\xe9"}',
    "cut": b'{"a": [1, 2',
}
"""Contents that are neither a JSON object nor a YAML mapping."""
HOSTILE = {
    "itself": b"a: &a\n  b: *a\n",
    "list of itself": b"a: &a [*a]\n",
    "aliases": BOMB,
    "a Python object": b"!!python/object/apply:os._exit [3]\n",
    "a class": b"a: !!python/name:os.system ''\n",
    "many values": b"a: [" + b"1," * 1_000_000 + b"1]\n",
    "deep blocks": b"".join(b" " * level + b"a:\n" for level in range(2000)),
    "tabs": b"a:\t- b\n\tc",
}


def refusal(read, path: Path) -> str:
    start = time.perf_counter()
    error = user_error(read, path)
    assert time.perf_counter() - start < 60
    assert str(path) in error
    assert len(error) < 500
    return error


@pytest.mark.parametrize("read", [read_json, read_yaml])
@pytest.mark.parametrize("kind", JUNK)
def test_a_file_without_named_values_is_refused(tmp_path, read, kind):
    (tmp_path / "a").write_bytes(JUNK[kind])
    refusal(read, tmp_path / "a")


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_yaml_file_is_refused(tmp_path, kind):
    (tmp_path / "a").write_bytes(HOSTILE[kind])
    refusal(read_yaml, tmp_path / "a")


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_a_file_that_cannot_be_opened_is_refused(tmp_path, read):
    refusal(read, tmp_path / "absent")
    refusal(read, tmp_path)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    assert "more than 64 MiB" in refusal(read, tmp_path / "large")


@pytest.mark.parametrize("seed", range(20))
def test_cut_and_changed_files_are_read_or_refused(tmp_path, seed):
    chance = random.Random(seed)
    content = yaml.safe_dump({"a": {"b": [1, 2.5, None, "x: y"]}, "c": [{"d": str(chance.random())}] * 3}).encode()
    data = bytearray(content[: chance.randrange(len(content))])
    for _ in range(chance.randrange(4)):
        data[chance.randrange(len(data))] = chance.randrange(256) if data else 0
    (tmp_path / "a").write_bytes(data)
    with suppress(UserError):
        assert isinstance(read_yaml(tmp_path / "a"), dict)


def test_files_of_a_run_are_read(tmp_path):
    content = {"a": {"b": [1, None, "é"]}, "labels": [f"label {number}" for number in range(3000)]}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == content
    (tmp_path / "b.yaml").write_text("- a=1\n- b=2\n")
    assert read_yaml(tmp_path / "b.yaml", list) == ["a=1", "b=2"]
    refusal(lambda path: read_yaml(path, list), tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "error", [KeyError("labels"), ValueError("a\nb"), RecursionError(), AttributeError("x" * 2000)]
)
def test_whatever_goes_wrong_while_reading_is_one_line(tmp_path, error):
    def read(path: Path) -> None:
        with reading(path):
            raise error

    assert type(error).__name__ in refusal(read, tmp_path / "a")
    with pytest.raises(UserError, match="as it is"), reading(tmp_path):
        raise UserError("as it is")
    assert os.access(tmp_path, os.W_OK)
