"""A full disk, at any size of any file, is one line that names the folder."""

import json
import logging
import os
import resource
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from counterpoise.csv_tables import write_csv
from counterpoise.data import download
from counterpoise.data.cache import cached, save_array
from counterpoise.errors import UserError
from counterpoise.io import atomic_path
from counterpoise.terminal import LogFile, user_error_line
from counterpoise.training.checkpoints import AtomicCheckpointIO
from counterpoise.training.predictions import write_predictions

SIZE = 40_000
LOGITS = np.random.default_rng(0).normal(size=(2000, 5)).astype(np.float32)
FULL = "No space left on device"


def savez(path: Path) -> None:
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, a=LOGITS, b=LOGITS)


def write_json(path: Path) -> None:
    with atomic_path(path) as unfinished:
        unfinished.write_text(json.dumps(LOGITS.tolist()))


WRITERS: dict[str, Callable[[Path], object]] = {
    "run.ckpt": lambda path: AtomicCheckpointIO().save_checkpoint({"a": torch.zeros(20_000), "b": ["x"] * 900}, path),
    "logits.npz": savez,
    "metrics.json": write_json,
    "classes.csv": lambda path: write_csv(pd.DataFrame(LOGITS), path),
    "predictions.parquet": lambda path: write_predictions(path, [*map(str, range(2000))], [*"abcde"], None, LOGITS),
    "predictions.csv": lambda path: write_predictions(path, [*map(str, range(2000))], [*"abcde"], None, LOGITS),
}


def with_file_limit(size: int, work: Callable[[], object]) -> str:
    """Return what the user sees of `work` in a process whose files hold at most `size` bytes."""
    end, start = os.pipe()
    if not (child := os.fork()):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            work()
            shown = "done"
        except BaseException as error:
            shown = user_error_line(error) or traceback.format_exc()
        os.write(start, shown.encode())
        os._exit(0)
    os.close(start)
    os.waitpid(child, 0)
    with os.fdopen(end) as pipe:
        return pipe.read()


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_names_the_file_and_keeps_the_old_one(name, tmp_path):
    path = tmp_path / name
    path.write_text("old")
    shown = {size: with_file_limit(size, lambda: WRITERS[name](path)) for size in range(0, SIZE, SIZE // 7)}
    assert set(shown.values()) == {f"cannot write {path}: File too large; free space in {tmp_path}"}
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208


@pytest.mark.parametrize("name", ["arrays.npz", "text", "array.npy"])
def test_a_full_disk_names_the_folder_of_the_cache(name, cache):
    def build(folder: Path) -> None:
        if name == "text":
            (folder / name).write_text("x" * 2 * SIZE)
        else:
            (np.savez if name.endswith("z") else save_array)(folder / name, LOGITS)

    shown = {with_file_limit(size, lambda: cached("tokens/x", build)) for size in range(0, SIZE, SIZE // 7)}
    for line in shown:
        assert line.startswith(f"cannot build the cache folder {cache / 'tokens' / 'x'}: ")
        assert "File too large" in line
        assert "COUNTERPOISE_CACHE" in line
    assert [path.name for path in (cache / "tokens").iterdir()] == ["x.lock"]


def test_a_full_disk_while_pip_downloads_names_the_folder_of_the_cache(cache, monkeypatch):
    output = f"ERROR: Exception:\nTraceback (most recent call last):\n  ...\nOSError: [Errno 28] {FULL}\n"
    done = subprocess.CompletedProcess([], 2, "", output)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: done)
    wheel = download.Wheel("a==1", "0" * 64, ["a"])
    with pytest.raises(UserError, match=f"{cache}.*{FULL}.*COUNTERPOISE_CACHE"):
        wheel.folder()


def test_the_reason_of_a_failure_of_pip_is_the_end_of_its_traceback(monkeypatch):
    done = subprocess.CompletedProcess([], 2, "", "ERROR: Exception:\nTraceback:\n  ...\nValueError: no\n")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: done)
    with pytest.raises(UserError, match="ValueError: no"):
        download.Wheel("a==1", "0" * 64, ["a"]).folder()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_log_file_on_a_full_disk_prints_no_tracebacks(capsys):
    handler = LogFile("/dev/full")
    for _ in range(3):
        handler.handle(logging.makeLogRecord({"msg": "x" * 10_000}))
    assert capsys.readouterr().err == ""
    handler.handle(logging.makeLogRecord({"msg": "%d", "args": ("x",)}))
    assert "Traceback" in capsys.readouterr().err
    handler.stream = None
    assert sys.stderr


def test_an_error_after_that_of_the_disk_is_the_disk_s():
    def write() -> None:
        try:
            raise OSError(28, FULL, "/there")
        finally:
            raise ValueError("Can't close the ZIP file while there is an open writing handle on it")

    with pytest.raises(ValueError, match="ZIP") as error:
        write()
    assert user_error_line(error.value) == f"/there: {FULL}"


def test_an_error_without_a_file_names_the_run_folder(tmp_path):
    assert user_error_line(OSError(28, FULL), tmp_path) == f"{tmp_path}: {FULL}"
    assert user_error_line(OSError(28, FULL, "/there"), tmp_path) == f"/there: {FULL}"
