"""Debian's package index as multi-label data: name and synopsis of a package, and its debtags.

A Packages file is a sequence of paragraphs of fields (Debian Policy 5.1); debtags are in the field Tag.
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
from counterpoise.data.readers.files import one_line, require_file
from counterpoise.data.table import Split, check_min_count, check_on_bad_row, drop_rare_labels
from counterpoise.errors import UserError

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
    """Packages of Debian: the text is "name: synopsis", the labels are the tags, the group is the source package.

    path: a Packages file, plain or compressed; None: what `apt-cache dumpavail` prints. Packages without tags are
    left out. Of a package that occurs more than once (in several suites or architectures) the newest version that
    has tags is taken. min_count: tags of fewer packages are left out. on_bad_row: "drop" (and count and warn) or
    "error", for paragraphs without a name, and for tagged packages without a synopsis or not in UTF-8.
    """

    path: str | None = None
    min_count: int = 1
    on_bad_row: str = "drop"
    _folder: Path | None = field(default=None, init=False, repr=False, compare=False)

    def prepare(self) -> None:
        """Reads the index into the cache, where it lies under a digest of its content."""
        check_on_bad_row(self.on_bad_row)
        check_min_count(self.min_count)
        if self._folder is None:
            data = _read(self.path)
            digest = hashlib.sha256(data).hexdigest()[:32]
            self._folder = cached(f"debtags/{FORMAT}-{digest}", lambda folder: _build(folder, data, self.path or APT))

    def load(self) -> dict[str, Split]:
        """Returns the one split that there is, "train"; raises UserError."""
        self.prepare()
        assert self._folder is not None
        shown = self.path or APT
        table = pq.read_table(self._folder / "packages.parquet")
        about = json.loads((self._folder / "about.json").read_text())
        complaints = _complaints(about["bad"])
        if complaints and self.on_bad_row == "error":
            raise UserError(f"{shown}: {'; '.join(complaints)}; mend them, or set data.on_bad_row=drop")
        for complaint in complaints:
            log.warning("%s: dropped %s", shown, complaint)
        sources = table["source"].combine_chunks()
        log.info(
            "%s: %d packages with tags, of %d sources; left out %d without tags and %d older or repeated entries",
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
        )
        return drop_rare_labels({"train": split}, self.min_count)


@dataclass(frozen=True)
class Index:
    """The packages of an index that have tags, and how much of it was left out.

    packages: a row each, in the order of the index: paragraph (its number from 1 on), package, source, text, tags.
    bad: the numbers of paragraphs that cannot be used, by reason. untagged: how many packages have no tags.
    repeated: how many tagged paragraphs a newer or equal one of the same package stands for.
    """

    packages: pa.Table
    bad: dict[str, list[int]]
    untagged: int
    repeated: int


def parse(data: bytes, shown: str) -> Index:
    """Returns what an index holds; raises UserError where it is none or has no tags. `shown` is its name there."""
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
        raise UserError(f"{shown} is no Packages file, for no paragraph has a field Package; it must be {INDEX}")
    if not newest and bad:
        raise UserError(f"{shown} has no usable package with tags: {'; '.join(_complaints(bad))}")
    if not newest:
        raise UserError(f"{shown}: no package has tags in a field Tag; they are in {INDEX}")
    packages = [dict(zip(SCHEMA.names, row, strict=True)) for row in sorted(row for _, row in newest.values())]
    return Index(pa.Table.from_pylist(packages, SCHEMA), bad, len(names - tagged), repeated)


def version_key(version: str) -> tuple[int, Key, Key]:
    """Returns what orders versions as dpkg does (Debian Policy 5.6.12): [epoch:]upstream[-revision]."""
    epoch, colon, rest = version.strip().partition(":")
    if not (colon and epoch.isdecimal()):
        epoch, rest = "0", version.strip()
    upstream, dash, revision = rest.rpartition("-")
    return int(epoch), _part_key(upstream if dash else rest), _part_key(revision if dash else "")


def _part_key(part: str) -> Key:
    """Returns runs of non-digits and digits in turn; "~" sorts before the end, letters before other characters."""
    runs = re.findall(r"([^0-9]*)([0-9]*)", part)
    key: list[tuple[tuple[int, ...], int]] = [((*map(_rank, text), 0), int(digits or 0)) for text, digits in runs]
    # What is absent counts as an empty run, or as 0. Two of them at the end, as "0~" begins with one itself.
    while key and key[-1] == _NOTHING:
        key.pop()
    return (*key, _NOTHING, _NOTHING)


def _rank(character: str) -> int:
    if character == "~":
        return -1
    return ord(character) + (0 if character.isalpha() else 0x110000)


def tags_of(value: str) -> list[str]:
    """Returns the tags of a field Tag, each once: "a::b, c::{d,e}" holds a::b, c::d and c::e."""
    plain = re.sub(r"([^\s,{}]+)\{([^{}]*)\}", _expand, value)
    return list(dict.fromkeys(tag for tag in re.split(r"[\s,{}]+", plain) if tag))


def _expand(brace: re.Match[str]) -> str:
    return ",".join(brace[1] + each for each in re.split(r"[\s,]+", brace[2]) if each)


def _read(path: str | None) -> bytes:
    """Returns the content of the file as it is, or what apt prints."""
    if path is not None:
        file = Path(path).expanduser()
        if file.is_dir():
            raise UserError(f"data.path={path} is a folder; it must be a Packages file, {INDEX}")
        require_file(file)
        try:
            return file.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {path} (data.path): {error.strerror}") from error
    if shutil.which("apt-cache") is None:
        raise UserError(f"there is no apt-cache on this machine: set data.path to {INDEX}")
    done = subprocess.run(APT.split(), capture_output=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        raise UserError(f"{APT} failed: {' '.join(done.stderr.decode(errors='replace').split())}; or set data.path")
    if not done.stdout.strip():
        raise UserError(f"{APT} lists no package: run `apt-get update` first, or set data.path to {INDEX}")
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
    """Writes the tagged packages of an index, in its order, and what was left out."""
    index = parse(_decompressed(data, shown), shown)
    pq.write_table(index.packages, folder / "packages.parquet")
    about = {"untagged": index.untagged, "repeated": index.repeated, "bad": index.bad}
    (folder / "about.json").write_text(json.dumps(about))


def _complaints(bad: dict[str, list[int]]) -> list[str]:
    return [f"{format_rows(np.array(numbers), 'paragraph')} {reason}" for reason, numbers in bad.items()]


def _paragraphs(data: bytes) -> Iterator[dict[bytes, bytes]]:
    """Yields the fields of each paragraph that are of use, by their names in lower case."""
    for paragraph in re.split(rb"\n(?:[ \t]*\n)+", data.replace(b"\r\n", b"\n")):
        if paragraph.strip():
            yield {name.lower(): value.strip(b" \t") for name, value in FIELDS.findall(paragraph)}
