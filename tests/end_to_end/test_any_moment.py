"""Runs that end at any moment: killed, stopped, or because the disk is full. The same command then completes them.

The runs are forked from this process, which saves the import of PyTorch. Several processes of a run are started and
ended as torchrun does it.
"""

import itertools
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning_utilities.core.rank_zero import rank_zero_only

from commandline import ROOT, Outcome, run, same_weights, setting

pytestmark = [pytest.mark.e2e, pytest.mark.soak]

SAMPLERS = ["power", "repeat_factor"]
SCHEDULES = [None, "deferred", "progressive"]
SECOND_STAGES = [None, "retrained", "tau_normalised", "post_hoc"]
RUNS = [(*parts, 1) for parts in itertools.product(SAMPLERS, SCHEDULES, SECOND_STAGES)]
RUNS += [(SAMPLERS[n % 2], *parts, 2) for n, parts in enumerate(itertools.product(SCHEDULES, SECOND_STAGES))]
"""Sampler, schedule, second stage and number of processes."""
NO_DROPOUT = ["dropout=0.0", "encoder.hidden_dropout=0.0", "encoder.attention_dropout=0.0"]
"""The random state of the first process only is saved."""
LARGE = 2**28
"""Bytes of a disk with enough space."""
FORK = multiprocessing.get_context("fork")
GRACE = 5.0
"""Seconds that a process has to end after another one of its run has failed."""


@pytest.fixture(scope="module", autouse=True)
def imports() -> None:
    """Import what train.py imports, before the first fork."""
    runpy.run_path(str(ROOT / "train.py"), run_name="imported")


@pytest.fixture
def tiny(texts: dict[str, Path], tiny_encoder: Path) -> list[str]:
    settings = [*setting(texts, tiny_encoder), "baseline=none", "strategy=plain", "trainer.max_epochs=2"]
    return [*settings, "ckpt=last"]


def start(folder: Path, *overrides: str, processes: int = 1) -> list[Any]:
    """Start the processes of a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        FORK.Process(target=_train, args=(folder, overrides, rank, processes, port)) for rank in range(processes)
    ]
    for process in started:
        process.start()
    return started


def _train(folder: Path, overrides: tuple[str, ...], rank: int, processes: int, port: int) -> None:
    if processes > 1:
        size, number = str(processes), str(rank)
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "any"}
        os.environ |= {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "RANK": number, "LOCAL_RANK": number}
        os.environ["GROUP_RANK"] = "0"
        rank_zero_only.rank = rank  # type: ignore[attr-defined]
    done = run(folder, *overrides, report=False)
    errors(folder, rank).write_text(done.err)
    sys.exit(done.code)


def errors(folder: Path, rank: int = 0) -> Path:
    """Return the file with the standard error of a process that was not killed; beside the parent of the folder."""
    return folder.parent.with_name(f"{folder.parent.name}.{folder.name}.{rank}.txt")


def shown(folder: Path) -> str:
    """Return the standard error of the first process of a run."""
    return errors(folder).read_text() if errors(folder).exists() else "it was killed"


def finish(processes: list[Any], seconds: float = 600) -> list[int]:
    """Return the exit codes of the processes. If one fails, the others are killed after a while."""
    end = time.monotonic() + seconds
    while any(process.is_alive() for process in processes):
        if any(process.exitcode for process in processes):
            end = min(end, time.monotonic() + GRACE)
        for process in processes:
            process.join(0.02)
            if time.monotonic() > end:
                process.kill()
    return [process.exitcode for process in processes]


def assert_same_results(folder: Path, whole: Path) -> None:
    one, other = (Outcome(0, "", "", each) for each in (folder, whole))
    assert one.status["state"] == "finished"
    assert one.metrics["test"] == other.metrics["test"]
    assert one.metrics["validation"] == other.metrics["validation"]
    assert one.metrics["steps"] == other.metrics["steps"]
    assert same_weights(one.last, other.last)
    assert not list(folder.rglob(".*.????????.*"))


@pytest.mark.parametrize(("sampler", "schedule", "stage", "processes"), RUNS)
def test_a_run_that_is_killed_or_stopped_at_any_moment_is_completed(
    sampler, schedule, stage, processes, tiny, tmp_path
):
    parts = {"sampler": sampler, "schedule": schedule, "second_stage": stage}
    settings = [*tiny, *(f"strategy/{part}={option}" for part, option in parts.items() if option)]
    if processes > 1:
        settings += ["trainer=ddp_cpu", *NO_DROPOUT]
    whole, begun = tmp_path / "whole", time.monotonic()
    codes = finish(start(whole, *settings, processes=processes))
    assert codes == [0] * processes, shown(whole)
    seconds = time.monotonic() - begun
    chance = random.Random(f"{sampler} {schedule} {stage} {processes}")
    for number in (signal.SIGKILL, signal.SIGTERM):
        folder = tmp_path / number.name
        running = start(folder, *settings, processes=processes)
        time.sleep(moment := seconds * chance.random())
        some = running if number == signal.SIGKILL else chance.sample(running, chance.randint(1, processes))
        for process in some:
            os.kill(process.pid, number)
        codes = finish(running)
        if number == signal.SIGTERM and any(codes) and (folder / "status.json").exists():
            # A signal before Python has imported the program ends it at once.
            assert 143 in codes or (-15 in codes and moment < seconds / 2), (codes, moment)
        codes = finish(start(folder, *settings, processes=processes))
        assert codes == [0] * processes, (moment, shown(folder))
        assert_same_results(folder, whole)


@pytest.mark.parametrize("seed", range(3))
def test_of_eight_runs_that_fill_an_empty_cache_seven_survive_the_end_of_the_one_that_builds(
    seed, tiny, cache, tmp_path
):
    folders = [tmp_path / str(number) for number in range(8)]
    running = {process.pid: process for folder in folders for process in start(folder, *tiny)}
    chance, builders, end = random.Random(seed), set(), time.monotonic() + 60
    while not builders & running.keys() and time.monotonic() < end:
        builders = {int(path.name.split("-")[-2]) for path in cache.rglob("*.tmp-*")}
    builders &= running.keys()
    os.kill(builders.pop() if builders else chance.choice(list(running)), signal.SIGKILL)
    codes = [code for process in running.values() for code in finish([process])]
    assert sorted(codes) == [-9, *[0] * 7]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Function that sets the size of a temporary file system, in bytes, and returns its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def sized(size: int) -> Path:
        options = ["-t", "tmpfs", "-o", f"{'remount,' * os.path.ismount(folder)}size={size}"]
        done = subprocess.run(["mount", *options, "tmpfs", folder], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"needs the permission to mount: {done.stderr.strip()}")
        return folder

    yield sized
    subprocess.run(["umount", "--lazy", folder], check=False, capture_output=True)


def test_a_disk_of_any_size_is_named_when_it_is_full_and_the_run_completed_with_a_larger_one(
    tiny, disk, tmp_path, monkeypatch
):
    settings = [*tiny, "strategy=crt"]
    folder = disk(LARGE)
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(folder / "cache"))
    assert finish(start(folder / "run", *settings)) == [0]
    whole = Path(shutil.copytree(folder / "run", tmp_path / "whole"))
    used = shutil.disk_usage(folder).used
    ends = set()
    for size in range(used // 20, used + 1, used // 20):
        shutil.rmtree(folder / "run")
        shutil.rmtree(folder / "cache", ignore_errors=True)
        disk(size)
        (code,) = finish(start(folder / "run", *settings))
        printed = shown(folder / "run")
        ends.add(code)
        assert code in (0, 2), (size, printed)
        if code:
            assert "Traceback" not in printed, size
            (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
            assert "No space left on device" in line, (size, printed)
            assert str(folder) in line, (size, printed)
        disk(LARGE)
        assert finish(start(folder / "run", *settings)) == [0], shown(folder / "run")
        assert_same_results(folder / "run", whole)
    assert 2 in ends
