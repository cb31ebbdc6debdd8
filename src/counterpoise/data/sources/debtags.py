"""Debian's package index as multi-label data: name and synopsis of a package, and its debtags.

A Packages file is a sequence of paragraphs of fields (Debian Policy 5.1). Debtags are in the field Tag.
"""

import hashlib
import json
import logging
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from counterpoise.data.arrow_columns import format_rows
from counterpoise.data.cache import cached
from counterpoise.data.label_cleaning import drop_rare_labels
from counterpoise.data.readers.files import require_file
from counterpoise.data.table import Split
from counterpoise.data.table_format import check_min_count, check_on_bad_row
from counterpoise.errors import UserError, one_line

log = logging.getLogger(__name__)

APT = "apt-cache dumpavail"
FORMAT = 1
FIELDS = re.compile(
    rb"^(Package|Source|Version|Description|Description-en|Tag)[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)", re.MULTILINE | re.I
)
COMPRESSED = {b"\x1f\x8b": "gzip", b"\x04\x22\x4d\x18": "lz4", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
XZ = b"\xfd7zXZ\x00"
INDEX = "an index of Debian, such as dists/stable/main/binary-amd64/Packages.xz of a mirror"

SCHEMA = pa.schema(
    {
        "paragraph": pa.int64(),
        "package": pa.string(),
        "source": pa.string(),
        "text": pa.large_string(),
        "tags": pa.list_(pa.string()),
    }
)

_NOTHING = ((0,), 0)
Key = tuple[tuple[tuple[int, ...], int], ...]


@dataclass
class DebtagsSource:
    """Packages of Debian. The text is "name: synopsis", the labels are the tags, the group is the source package.

    Packages without tags are dropped. If a package occurs more than once (in several suites or architectures), the
    newest version with tags is used.

    Args:
        path: A Packages file, plain or compressed. None: the output of `apt-cache dumpavail`.
        min_count: Tags of fewer packages are removed.
        on_bad_row: "drop" (count and warn) or "error", for paragraphs without a name and for tagged packages without a
            synopsis or not in UTF-8.
    """

    path: str | None = None
    min_count: int = 1
    on_bad_row: str = "drop"
    _folder: Path | None = field(default=None, init=False, repr=False, compare=False)

    def prepare(self) -> None:
        """Parse the index into the cache, under a digest of its content."""
        check_on_bad_row(self.on_bad_row)
        check_min_count(self.min_count)
        if self._folder is None:
            data = _read(self.path)
            digest = hashlib.sha256(data).hexdigest()[:32]
            self._folder = cached(f"debtags/{FORMAT}-{digest}", lambda folder: _build(folder, data, self.path or APT))

    def load(self) -> dict[str, Split]:
        """Return the only split, "train".

        Raises:
            UserError: The index is invalid or has no tags, or a paragraph is refused (`on_bad_row="error"`).
        """
        self.prepare()
        assert self._folder is not None
        shown = self.path or APT
        table = pq.read_table(self._folder / "packages.parquet")
        about = json.loads((self._folder / "about.json").read_text())
        complaints = _complaints(about["bad"])
        if complaints and self.on_bad_row == "error":
            raise UserError(f"{shown}: {'; '.join(complaints)}; correct them, or set data.on_bad_row=drop")
        notices = [f"{shown}: dropped {complaint}" for complaint in complaints]
        for notice in notices:
            log.warning(notice)
        sources = table["source"].combine_chunks()
        log.info(
            "%s: %d packages with tags, of %d sources; dropped %d without tags and %d older or repeated entries",
            *(shown, len(table), len(sources.unique()), about["untagged"], about["repeated"]),
        )
        split = Split(
            name="train",
            file=shown,
            rows=table["paragraph"].to_numpy(),
            ids=table["package"].combine_chunks(),
            texts=table["text"],
            labels=table["tags"].combine_chunks(),
            dropped={reason: len(numbers) for reason, numbers in about["bad"].items()},
            groups=sources,
            notices=tuple(notices),
        )
        return drop_rare_labels({"train": split}, self.min_count)


@dataclass(frozen=True)
class Index:
    """Tagged packages of an index, and counts of what was dropped.

    Args:
        packages: One row per package in the order of the index: paragraph (number from 1), package, source, text, tags.
        bad: Numbers of unusable paragraphs by reason.
        untagged: Number of packages without tags.
        repeated: Number of tagged paragraphs that another paragraph of the same package replaces.
    """

    packages: pa.Table
    bad: dict[str, list[int]]
    untagged: int
    repeated: int


def parse(data: bytes, shown: str) -> Index:
    """Parse a Packages file.

    Args:
        data: Content of the file.
        shown: Name of the file in messages.

    Raises:
        UserError: The data is not a Packages file, or has no usable package with tags.
    """
    newest: dict[str, tuple[str, tuple[int, str, str, str, list[str]]]] = {}
    bad: dict[str, list[int]] = {}
    names: set[str] = set()
    tagged: set[str] = set()
    repeated = 0
    for number, raw in enumerate(_paragraphs(data), start=1):
        if not raw.get(b"package"):
            bad.setdefault("without a field Package", []).append(number)
            continue
        name = raw[b"package"].decode(errors="replace")
        names.add(name)
        tags = tags_of(raw.get(b"tag", b"").decode(errors="replace"))
        if not tags:
            continue
        tagged.add(name)
        try:
            fields = {key: value.decode() for key, value in raw.items()}
        except UnicodeDecodeError:
            bad.setdefault("not in UTF-8", []).append(number)
            continue
        synopsis = (fields.get(b"description") or fields.get(b"description-en") or "").partition("\n")[0].strip()
        if not synopsis:
            bad.setdefault("without a synopsis", []).append(number)
            continue
        version, source = fields.get(b"version", ""), (fields.get(b"source") or name).split()[0]
        repeated += name in newest
        if name not in newest or version_key(version) > version_key(newest[name][0]):
            newest[name] = version, (number, name, source, f"{name}: {synopsis}", tags)
    if not names:
        raise UserError(f"{shown} is not a Packages file: no paragraph has the field Package. Use {INDEX}")
    if not newest and bad:
        raise UserError(f"{shown} has no usable package with tags: {'; '.join(_complaints(bad))}")
    if not newest:
        raise UserError(f"{shown}: no package has tags in the field Tag. Use {INDEX}")
    packages = [dict(zip(SCHEMA.names, row, strict=True)) for row in sorted(row for _, row in newest.values())]
    return Index(pa.Table.from_pylist(packages, SCHEMA), bad, len(names - tagged), repeated)


def version_key(version: str) -> tuple[int, Key, Key]:
    """Return a key that sorts versions as dpkg does: [epoch:]upstream[-revision].

    References:
        Debian Policy 5.6.12.
    """
    epoch, colon, rest = version.strip().partition(":")
    if not (colon and epoch.isdecimal()):
        epoch, rest = "0", version.strip()
    upstream, dash, revision = rest.rpartition("-")
    return int(epoch), _part_key(upstream if dash else rest), _part_key(revision if dash else "")


def _part_key(part: str) -> Key:
    """Return runs of non-digits and digits in turn. "~" sorts before the end, letters before other characters."""
    runs = re.findall(r"([^0-9]*)([0-9]*)", part)
    key: list[tuple[tuple[int, ...], int]] = [((*map(_rank, text), 0), int(digits or 0)) for text, digits in runs]
    # A missing run counts as empty, a missing number as 0. Two are appended: "0~" itself starts with one.
    while key and key[-1] == _NOTHING:
        key.pop()
    return (*key, _NOTHING, _NOTHING)


def _rank(character: str) -> int:
    if character == "~":
        return -1
    return ord(character) + (0 if character.isalpha() else 0x110000)


def tags_of(value: str) -> list[str]:
    """Return the distinct tags of a field Tag: "a::b, c::{d,e}" holds a::b, c::d and c::e."""
    plain = re.sub(r"([^\s,{}]+)\{([^{}]*)\}", _expand, value)
    return list(dict.fromkeys(tag for tag in re.split(r"[\s,{}]+", plain) if tag))


def _expand(brace: re.Match[str]) -> str:
    return ",".join(brace[1] + each for each in re.split(r"[\s,]+", brace[2]) if each)


def _read(path: str | None) -> bytes:
    """Return the content of the file, or the output of apt."""
    if path is not None:
        file = Path(path).expanduser()
        if file.is_dir():
            raise UserError(f"data.path={path} is a folder: give a Packages file, {INDEX}")
        require_file(file)
        try:
            return file.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {path} (data.path): {error.strerror}") from error
    if shutil.which("apt-cache") is None:
        raise UserError(f"apt-cache is not installed: set data.path to {INDEX}")
    done = subprocess.run(APT.split(), capture_output=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        raise UserError(f"{APT} failed: {' '.join(done.stderr.decode(errors='replace').split())}; or set data.path")
    if not done.stdout.strip():
        raise UserError(f"{APT} lists no packages: run `apt-get update` first, or set data.path to {INDEX}")
    return done.stdout


def _decompressed(data: bytes, shown: str) -> bytes:
    try:
        if data.startswith(XZ):
            return lzma.decompress(data)
        for magic, name in COMPRESSED.items():
            if data.startswith(magic):
                return pa.input_stream(pa.py_buffer(data), compression=name).read()
    except (OSError, EOFError, lzma.LZMAError, pa.ArrowException) as error:
        raise UserError(f"cannot decompress {shown}: {one_line(error)}") from error
    return data


def _build(folder: Path, data: bytes, shown: str) -> None:
    """Write the tagged packages of an index and the counts of what was dropped."""
    index = parse(_decompressed(data, shown), shown)
    pq.write_table(index.packages, folder / "packages.parquet")
    about = {"untagged": index.untagged, "repeated": index.repeated, "bad": index.bad}
    (folder / "about.json").write_text(json.dumps(about))


def _complaints(bad: dict[str, list[int]]) -> list[str]:
    return [f"{format_rows(np.array(numbers), 'paragraph')} {reason}" for reason, numbers in bad.items()]


def _paragraphs(data: bytes) -> Iterator[dict[bytes, bytes]]:
    """Yield the fields of each paragraph by their names in lower case."""
    for paragraph in re.split(rb"\n(?:[ \t]*\n)+", data.replace(b"\r\n", b"\n")):
        if paragraph.strip():
            yield {name.lower(): value.strip(b" \t") for name, value in FIELDS.findall(paragraph)}
