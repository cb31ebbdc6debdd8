import os
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from counterpoise.data import cache
from counterpoise.data.cache import build_seconds, cache_root, cached
from counterpoise.errors import UserError
from refusals import user_error


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def start(code: str, *args: object) -> subprocess.Popen:
    """Starts a Python process in which `cached`, `Path`, `os`, `time` and `sys` are imported."""
    head = "import os, sys, time\nfrom pathlib import Path\nfrom counterpoise.data.cache import cached\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code), *map(str, args)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def write_hello(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "hello.txt").write_text("hello")


def never(folder: Path) -> None:
    raise AssertionError("built again")


def test_the_root_is_the_environment_variable_or_the_platforms_cache_folder(root, monkeypatch):
    assert cache_root() == root
    monkeypatch.setenv("COUNTERPOISE_CACHE", "~/there")
    assert cache_root() == Path.home() / "there"
    monkeypatch.delenv("COUNTERPOISE_CACHE")
    assert cache_root().is_absolute()
    assert "counterpoise" in str(cache_root())


def test_an_entry_is_built_once_and_then_found(root):
    folder = cached("tokens/abc", write_hello)
    assert folder == root / "tokens" / "abc"
    assert (folder / "deep" / "hello.txt").read_text() == "hello"
    assert cached("tokens/abc", never) == folder
    assert sorted(path.name for path in folder.parent.iterdir()) == ["abc", "abc.lock"]


def test_the_permissions_of_an_entry_follow_the_umask(root):
    old = os.umask(0o022)
    try:
        assert cached("shared", write_hello).stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(old)


def test_processes_that_race_build_once(root, tmp_path):
    builds = tmp_path / "builds.txt"
    code = """
        def build(folder):
            with open(sys.argv[1], "a") as log:
                log.write(f"{os.getpid()}\\n")
            time.sleep(0.3)
            (folder / "a.txt").write_text("whole")
        print((cached("race/x", build) / "a.txt").read_text())
    """
    processes = [start(code, builds) for _ in range(6)]
    assert [finish(process).strip() for process in processes] == ["whole"] * 6
    assert len(builds.read_text().splitlines()) == 1


def test_a_build_that_is_killed_leaves_no_entry_and_the_next_one_clears_up(root):
    code = """
        def build(folder):
            (folder / "half.txt").write_text("ha")
            os._exit(9)
        cached("tokens/k", build)
    """
    process = start(code)
    process.communicate(timeout=300)
    assert process.returncode == 9
    assert not (root / "tokens" / "k").exists()
    assert len(list((root / "tokens").glob("k.tmp-*"))) == 1

    folder = cached("tokens/k", write_hello)
    assert sorted(path.name for path in folder.iterdir()) == ["checksums.json", "deep"]
    assert not list(folder.parent.glob("*.tmp-*"))


def test_a_waiting_process_builds_after_the_builder_is_killed(root, tmp_path):
    killed = """
        def build(folder):
            Path(sys.argv[1]).touch()
            time.sleep(0.5)
            os._exit(9)
        cached("k", build)
    """
    waits = """
        while not Path(sys.argv[1]).exists():
            time.sleep(0.01)
        print(cached("k", lambda folder: (folder / "mine.txt").touch()))
    """
    first, second = (start(code, tmp_path / "started") for code in (killed, waits))
    assert Path(finish(second).strip(), "mine.txt").exists()
    first.communicate(timeout=300)
    assert not list(root.glob("*.tmp-*"))


def test_another_entrys_build_under_way_is_left_alone(root):
    other = root / "ab.tmp-1-2"
    other.mkdir(parents=True)
    cached("a", write_hello)
    assert other.exists()


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), UserError("mend it")])
def test_a_build_that_fails_is_removed_and_its_error_passed_on(root, error):
    def build(folder):
        write_hello(folder)
        raise error

    with pytest.raises(type(error)):
        cached("x", build)
    assert [path.name for path in root.iterdir()] == ["x.lock"]
    assert cached("x", write_hello).is_dir()


def test_a_full_disk_is_reported_in_one_line_and_leaves_nothing(root):
    def build(folder):
        write_hello(folder)
        with Path("/dev/full").open("w") as full:
            full.write("x" * 100_000)

    error = user_error(cached, "tokens/full", build)
    assert error == (
        f"cannot build the cache folder {root / 'tokens' / 'full'}: No space left on device; "
        "set COUNTERPOISE_CACHE to a writable folder with enough free space"
    )
    assert [path.name for path in (root / "tokens").iterdir()] == ["full.lock"]


def test_a_root_that_cannot_be_written_is_reported_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="Not a directory; set COUNTERPOISE_CACHE") as error:
        cached("tokens/a", never)
    assert "\n" not in str(error.value)
    assert str(tmp_path / "file" / "cache" / "tokens" / "a") in str(error.value)


@pytest.fixture
def sleep(monkeypatch):
    """Moves the clock of the cache."""
    now = [0.0]
    monkeypatch.setattr(cache, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return sleep


def spent(*keys: str, build) -> float:
    """Return by how much `build_seconds` grows."""
    before = build_seconds()
    for key in keys:
        cached(key, build)
    return build_seconds() - before


@pytest.mark.parametrize(("keys", "builds"), [(("a",), 1), (("a", "a", "a"), 1), (("a", "b"), 2)])
def test_only_the_building_of_an_entry_takes_build_seconds(keys, builds, sleep):
    assert spent(*keys, build=lambda folder: sleep(8)) == 8 * builds
    assert spent(*keys, build=never) == 0


def test_nested_and_failed_builds_count_once(sleep):
    def nested(folder: Path) -> None:
        cached("inner", lambda folder: sleep(8))

    def failing(folder: Path) -> None:
        sleep(4)
        raise UserError("no")

    assert spent("outer", build=nested) == 8
    before = build_seconds()
    with pytest.raises(UserError, match="no"):
        cached("failing", failing)
    assert build_seconds() - before == 4
    assert spent("after", build=lambda folder: sleep(2)) == 2


def test_waiting_for_the_builder_in_another_process_counts(monkeypatch, sleep):
    def wait_for_lock(path: str) -> nullcontext:
        sleep(8)
        return nullcontext()

    monkeypatch.setattr(cache, "FileLock", wait_for_lock)
    assert spent("a", build=write_hello) == 8
