import gzip
import lzma
import stat
import sys
from itertools import pairwise

import pyarrow as pa
import pytest

from conftest import refused
from counterpoise.data.sources import debtags
from counterpoise.data.sources.debtags import DebtagsSource, parse, tags_of, version_key

INDEX = """\
Package: abacus
Version: 1.0-1
Installed-Size: 12
Depends: libc6 (>= 2.34)
Description: spreadsheet of beads
 Synopsis: not this line,
 .
 Tag: nor::this
Tag: interface::x11, role::program,
 use::calculating,
\tworks-with::spreadsheet
Section: math

Package: libabacus1
Source: abacus (1.0-1)
Version: 1.0-1
Description: beads to link with
Tag: role::shared-lib

Package: libabacus-dev
source: abacus
Version: 1.0-1
Description:   beads to compile with
TAG: role::devel-lib, devel::{lang:c,library}

Package: untagged
Version: 3
Description: nothing is known about it

Package: empty-tag
Version: 3
Description: nothing either
Tag:
Section: misc

Package: only-commas
Version: 3
Description: nothing either
Tag: , ,
"""


def written(path, data: str | bytes):
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def entry(name, version, tags="role::program", synopsis="a package", **fields) -> str:
    lines = {"Package": name, "Version": version, "Description": synopsis, "Tag": tags, **fields}
    return "".join(f"{key}: {value}\n" for key, value in lines.items() if value is not None) + "\n"


def load(file, **options):
    return DebtagsSource(file, **options).load()["train"]


@pytest.fixture
def index(tmp_path):
    return written(tmp_path / "Packages", INDEX)


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """Puts an `apt-cache` on the path, alone, that prints what is given and ends with this code."""

    def make(prints: str, code: int = 0, complains: str = ""):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (tmp_path / "printed").write_text(prints)
        program = (
            f"#!{sys.executable}\nimport sys\nassert sys.argv[1:] == ['dumpavail']\n"
            f"print(open({str(tmp_path / 'printed')!r}).read(), end='')\n"
            f"sys.stderr.write({complains!r})\nsys.exit({code})\n"
        )
        (folder / "apt-cache").write_text(program)
        (folder / "apt-cache").chmod(stat.S_IRWXU)
        monkeypatch.setenv("PATH", str(folder))

    return make


def test_a_package_is_its_name_and_synopsis_with_its_tags_and_its_source(index, caplog):
    with caplog.at_level("INFO"):
        splits = DebtagsSource(index).load()
    assert list(splits) == ["train"]
    split = splits["train"]
    assert split.texts.to_pylist() == [
        "abacus: spreadsheet of beads",
        "libabacus1: beads to link with",
        "libabacus-dev: beads to compile with",
    ]
    assert split.labels.to_pylist() == [
        ["interface::x11", "role::program", "use::calculating", "works-with::spreadsheet"],
        ["role::shared-lib"],
        ["role::devel-lib", "devel::lang:c", "devel::library"],
    ]
    assert split.ids.to_pylist() == ["abacus", "libabacus1", "libabacus-dev"]
    assert split.groups.to_pylist() == ["abacus"] * 3
    assert split.rows.tolist() == [1, 2, 3]
    assert (split.name, split.file, split.task, split.dropped) == ("train", index, "multi_label", {})
    assert (split.texts.type, split.labels.type) == (pa.large_string(), pa.list_(pa.string()))
    assert caplog.messages == [
        f"{index}: 3 packages with tags, of 1 sources; dropped 3 without tags and 0 older or repeated entries"
    ]


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        ("a::b, c::d", ["a::b", "c::d"]),
        ("a::b,c::d,", ["a::b", "c::d"]),
        ("a::b,\n c::d\n", ["a::b", "c::d"]),
        ("a::b a::b, c::d", ["a::b", "c::d"]),
        ("a::{b,c}, d::e", ["a::b", "a::c", "d::e"]),
        ("d::e, a::{b,\n c:d }", ["d::e", "a::b", "a::c:d"]),
        ("a::{b}, a::{}", ["a::b"]),
        ("implemented-in::c++", ["implemented-in::c++"]),
        (" ,\n ", []),
    ],
)
def test_the_tags_of_a_field(value, tags):
    assert tags_of(value) == tags


def test_the_newest_tagged_version_of_a_package_counts_once(tmp_path):
    file = written(
        tmp_path / "Packages",
        entry("a", "1.9", "x::old", "old")
        + entry("b", "1", "x::b")
        + entry("a", "1.10", "x::new", "new", Architecture="amd64")
        + entry("a", "1.10", "x::again", "the same again", Architecture="i386")
        + entry("a", "1.10~rc1", "x::candidate")
        # An update of another suite, whose index has no tags.
        + entry("a", "1.10+deb12u1", None),
    )
    split = load(file)
    assert split.texts.to_pylist() == ["b: a package", "a: new"]
    assert split.labels.to_pylist() == [["x::b"], ["x::new"]]
    assert split.rows.tolist() == [2, 3]
    about = parse((tmp_path / "Packages").read_bytes(), file)
    assert (about.repeated, about.untagged, about.bad) == (3, 0, {})


def test_windows_line_ends_blank_lines_and_other_cases_of_field_names_are_read(tmp_path):
    text = "\r\n\r\n" + INDEX.replace("\n\n", "\n \t\n\n").replace("Package:", "PACKAGE :").replace("\n", "\r\n")
    split = load(written(tmp_path / "Packages", text))
    assert split.ids.to_pylist() == ["abacus", "libabacus1", "libabacus-dev"]
    assert split.texts[0].as_py() == "abacus: spreadsheet of beads"
    assert split.labels[0].as_py()[-1] == "works-with::spreadsheet"


def test_a_synopsis_in_english_stands_in_for_one_that_is_missing(tmp_path):
    file = written(tmp_path / "Packages", entry("a", "1", synopsis=None, **{"Description-en": "in English"}))
    assert load(file).texts.to_pylist() == ["a: in English"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".lz4", ".bz2", ".zst"])
def test_an_index_may_be_compressed(tmp_path, suffix):
    data = INDEX.encode()
    if suffix == ".xz":
        data = lzma.compress(data)
    elif suffix == ".gz":
        data = gzip.compress(data[:100]) + gzip.compress(data[100:])
    elif suffix:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, {".lz4": "lz4", ".bz2": "bz2", ".zst": "zstd"}[suffix]) as out:
            out.write(data)
        data = sink.getvalue().to_pybytes()
    assert len(load(written(tmp_path / f"Packages{suffix}", data))) == 3


def test_rare_tags_are_left_out_and_their_packages_stay(tmp_path):
    file = written(
        tmp_path / "Packages", entry("a", "1", "x::y, x::z") + entry("b", "1", "x::y") + entry("c", "1", "q")
    )
    assert load(file, min_count=2).labels.to_pylist() == [["x::y"], ["x::y"], []]
    assert "data.min_count=3: no label of" in refused(DebtagsSource(file, min_count=3))


# What cannot be used


BAD = (
    entry("good", "1").encode()
    + b"Version: 1\nDescription: no name\nTag: a::b\n\n"
    + "Package: latin\nDescription: caf\xe9\nTag: a::b\n\n".encode("latin-1")
    + b"Package: silent\nTag: a::b\n\n"
    + b"Package: silent-too\nDescription: \n long text\nTag: a::b\n\n"
    + "Package: latin-untagged\nDescription: caf\xe9\n\n".encode("latin-1")
    + "Package: gut\nMaintainer: J\xf6rg\nDescription: 好\nTag: a::b\n".replace("好", "good").encode("latin-1")
)


def test_unusable_paragraphs_are_dropped_and_counted_with_a_warning(tmp_path, caplog):
    file = written(tmp_path / "Packages", BAD)
    split = load(file)
    assert parse(BAD, file).untagged == 1
    assert split.ids.to_pylist() == ["good", "gut"]
    assert split.rows.tolist() == [1, 7]
    assert split.dropped == {"without a field Package": 1, "not in UTF-8": 1, "without a synopsis": 2}
    assert caplog.messages == [
        f"{file}: dropped paragraph 2 without a field Package",
        f"{file}: dropped paragraph 3 not in UTF-8",
        f"{file}: dropped paragraphs 4, 5 without a synopsis",
    ]


def test_unusable_paragraphs_are_an_error_with_on_bad_row_error(tmp_path):
    file = written(tmp_path / "Packages", BAD)
    assert refused(DebtagsSource(file, on_bad_row="error")) == (
        f"{file}: paragraph 2 without a field Package; paragraph 3 not in UTF-8; "
        "paragraphs 4, 5 without a synopsis; correct them, or set data.on_bad_row=drop"
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "is not a Packages file: no paragraph has the field Package"),
        (b"\n\n", "is not a Packages file"),
        (b"text,label\na,x\n", "is not a Packages file"),
        (b"<html>\n\n<p>404</p>", "is not a Packages file"),
        (bytes(range(256)) * 9, "is not a Packages file"),
        (b"Package: a\nDescription: b\n", ": no package has tags in the field Tag. Use an index of Debian"),
        (b"Package: a\nDescription: b\nTag: ,\n", ": no package has tags in the field Tag"),
        (b"Package: a\nTag: b::c\n", " has no usable package with tags: paragraph 1 without a synopsis"),
    ],
)
def test_a_file_that_holds_no_tagged_packages_is_reported(tmp_path, data, expected):
    file = written(tmp_path / "Packages", data)
    message = refused(DebtagsSource(file))
    assert message.startswith(file)
    assert expected in message


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".lz4"])
def test_a_file_cut_short_is_reported(tmp_path, suffix):
    test_an_index_may_be_compressed(tmp_path, suffix)
    path = tmp_path / f"Packages{suffix}"
    path.write_bytes(path.read_bytes()[:-30])
    message = refused(DebtagsSource(str(path)))
    assert message.startswith(f"cannot decompress {path}: ")


def test_a_missing_file_or_a_folder_is_reported(index, tmp_path):
    message = f"there is no file {tmp_path / 'Package'}. Did you mean 'Packages'?"
    assert refused(DebtagsSource(str(tmp_path / "Package"))) == message
    message = f"data.path={tmp_path} is a folder: give a Packages file, an index of Debian"
    assert refused(DebtagsSource(str(tmp_path))).startswith(message)
    message = "data.on_bad_row is 'skip'; it can be 'drop' or 'error'"
    assert refused(DebtagsSource(index, on_bad_row="skip")) == message
    assert "data.min_count=0" in refused(DebtagsSource(index, min_count=0))


# apt


def test_without_a_path_the_index_is_what_apt_prints(apt):
    apt(INDEX)
    split = load(None)
    assert split.ids.to_pylist() == ["abacus", "libabacus1", "libabacus-dev"]
    assert split.file == "apt-cache dumpavail"


def test_a_machine_without_apt_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refused(DebtagsSource()).startswith(
        "apt-cache is not installed: set data.path to an index of Debian, such as dists/"
    )


def test_an_empty_or_untagged_apt_index_is_reported(apt):
    apt("\n")
    assert refused(DebtagsSource()).startswith("apt-cache dumpavail lists no packages: run `apt-get update` first")
    apt(entry("a", "1", None))
    assert refused(DebtagsSource()).startswith("apt-cache dumpavail: no package has tags in the field Tag")
    apt("", 100, "E: The package lists or status file\nE: could not be parsed.\n")
    assert refused(DebtagsSource()) == (
        "apt-cache dumpavail failed: E: The package lists or status file E: could not be parsed.; or set data.path"
    )


# The cache


def test_an_index_is_parsed_once(index, monkeypatch):
    DebtagsSource(index).prepare()

    def never(data, shown):
        raise AssertionError("parsed again")

    monkeypatch.setattr(debtags, "parse", never)
    assert len(load(index)) == 3


def test_a_changed_index_is_parsed_again(index, tmp_path):
    assert len(load(index)) == 3
    written(tmp_path / "Packages", INDEX + "\n" + entry("new", "1"))
    assert load(index).ids.to_pylist()[-1] == "new"


def test_an_index_that_was_refused_leaves_nothing_in_the_cache(index, tmp_path, cache):
    written(tmp_path / "bad", "nothing")
    refused(DebtagsSource(str(tmp_path / "bad")))
    assert [path for path in (cache / "debtags").iterdir() if path.is_dir()] == []
    load(index)
    assert len([path for path in (cache / "debtags").iterdir() if path.is_dir()]) == 1


# Versions: Debian Policy 5.6.12


@pytest.mark.parametrize(
    "ascending",
    [
        # The examples of the policy.
        ["~~", "~~a", "~", "", "a"],
        ["1.0~beta1~svn1245", "1.0~beta1", "1.0"],
        ["1.9", "1.10", "1.10a", "1.10+1", "2"],
        ["1.0-1", "1.0-1+b1", "1.0-1.1", "1.0-2", "1.0-10", "1.0.1-1"],
        ["1.0-1~bpo12+1", "1.0-1", "1.0-1+deb12u1"],
        ["9", "1:0.5", "1:1", "2:0~"],
        ["1-2-3", "1-10-1"],
        ["1.0-0~", "1.0", "1.0-0.1"],
        ["0~", "0", "0a", "00001"],
        ["a", "a+b", "b", "z", "z+"],
        ["1-1", "1Z", "1a", "1+", "1."],
    ],
)
def test_versions_are_in_the_order_of_dpkg(ascending):
    for lower, higher in pairwise(ascending):
        assert version_key(lower) < version_key(higher), (lower, higher)


@pytest.mark.parametrize(
    "same", [["1.0", "1.0-0", "0:1.0", "1.00"], ["", "0"], ["a", "a0"], ["1.", "1.0"], ["007", "7"]]
)
def test_versions_that_are_the_same_to_dpkg(same):
    assert len({version_key(version) for version in same}) == 1
