"""Sweeps in worker processes: any job may die, nothing outlives the sweep, and a second sweep runs what is missing."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from counterpoise.commands.sweep import LeaderboardCallback
from counterpoise.errors import UserError
from counterpoise.sweep.launch import limits
from counterpoise.sweep.processes import THREAD_VARIABLES
from counterpoise.training.run import record_status
from sweep import application

REASONS = {
    "sigkill": "killed by SIGKILL (out of memory?)",
    "abort": "killed by SIGABRT",
    "exit": "exit code 3",
    "exit_0": "exit code 0",
    "leave": "exit code 4",
    "bug": "ValueError: a bug",
    "hog": "GiB of memory exceed mem_gb=0.4",
}
"""Reasons of failed jobs by the way in which the job ends."""


PARALLEL = ["hydra.launcher.n_jobs=2", "hydra.launcher.jobs_per_worker=null"]

UNLIMITED = {"timeout_min": None, "mem_gb": None, "one_gpu_each": False}


def status(folder: Path) -> dict:
    return json.loads((folder / "status.json").read_text())


def attempts(sweep: Path) -> dict[str, int]:
    """Return how often each job was tried, by folder."""
    return {path.parent.name: len(path.read_text()) for path in sorted(sweep.glob("*/attempts"))}


def test_jobs_may_die_in_any_way_and_only_they_run_again(tmp_path, capsys):
    jobs = f"how=plain,{','.join(REASONS)},exit_after,plain2"
    settings = [*PARALLEL]
    settings += ["hydra.launcher.mem_gb=0.4", "hydra.launcher.one_gpu_each=true"]
    done = application.run(tmp_path, jobs, *settings, "+shared=1")
    assert done.returncode == 0, done.stderr  # the exit code is that of the leaderboard
    sweep = tmp_path / "sweep"
    names = ["plain", *REASONS, "exit_after", "plain2"]
    for number, name in enumerate(names):
        recorded = status(sweep / str(number))
        assert recorded["state"] == ("failed" if name in REASONS else "finished"), name
        assert REASONS.get(name, "") in (recorded.get("reason") or ""), recorded
        assert f"how={name}: {recorded['state']} in " in done.stdout
    assert "every job: shared=1" in done.stdout.replace("+", "")
    assert done.stdout.count("shared=1") == 1
    assert {path.read_text() for path in sweep.glob("*/gpu")} == {"7", "8"}
    config = OmegaConf.create({"hydra": {"runtime": {"cwd": str(tmp_path)}, "sweep": {"dir": "sweep"}}})
    with pytest.raises(SystemExit, match="1"):
        LeaderboardCallback().on_multirun_end(config)
    printed = " ".join(capsys.readouterr().out.split())
    assert "its process was killed by SIGABRT" in printed

    (tmp_path / "repaired").touch()
    again = application.run(tmp_path, jobs, *settings, "+shared=1")
    assert again.returncode == 0, again.stderr
    assert "3 of 10 jobs finished earlier and are skipped" in again.stdout
    assert attempts(sweep) == {str(i): 2 if name in REASONS else 1 for i, name in enumerate(names)}
    LeaderboardCallback().on_multirun_end(config)


def test_a_job_that_takes_too_long_is_stopped(tmp_path):
    done = application.run(tmp_path, "how=hang", "hydra.launcher.timeout_min=0.02")
    assert "job 0, how=hang: failed in " in done.stdout
    assert status(tmp_path / "sweep/0")["reason"] == "killed: it took longer than timeout_min=0.02"


@pytest.mark.soak
def test_of_a_hundred_jobs_ten_are_killed_and_only_they_run_again(tmp_path):
    killed = random.Random(0).sample(range(100), 10)
    arguments = ["seed=range(100)", f"killed={killed}".replace(" ", ""), *PARALLEL]
    application.run(tmp_path, *arguments)
    sweep = tmp_path / "sweep"
    for seed in range(100):
        recorded = status(sweep / str(seed))
        assert recorded["state"] == ("failed" if seed in killed else "finished"), seed
        assert "SIGKILL" in recorded["reason"] if seed in killed else not recorded.get("reason")
    (tmp_path / "repaired").touch()
    again = application.run(tmp_path, *arguments)
    assert "90 of 100 jobs finished earlier and are skipped" in again.stdout
    assert attempts(sweep) == {str(seed): 1 + (seed in killed) for seed in range(100)}
    assert all(status(sweep / str(seed))["state"] == "finished" for seed in range(100))


def _alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z (" not in _state(pid)]


def _state(pid: int) -> str:
    try:
        return next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("State"))
    except (OSError, StopIteration):
        return "Z (gone)"


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.soak), (signal.SIGKILL, -9)],
)
def test_nothing_outlives_a_sweep_that_is_stopped(tmp_path, number, code):
    process = application.start(tmp_path, "how=plain,family,family2", "seed=1,2", *PARALLEL)
    wanted = [tmp_path / "sweep" / str(job) / "pids" for job in (2, 3)]
    try:
        end = time.monotonic() + 300
        while not all(path.exists() and path.read_text() for path in wanted) and time.monotonic() < end:
            time.sleep(0.1)
        pids = [int(pid) for path in wanted for pid in path.read_text().split()]
        assert len(_alive(pids)) == 4
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    end = time.monotonic() + 300
    while _alive(pids) and time.monotonic() < end:
        time.sleep(0.1)
    assert not _alive(pids)
    assert process.returncode == code, err
    assert "how=family2" not in out
    if number != signal.SIGKILL:
        cause = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[number]
        assert f"stopped by {cause}: 2 of 6 jobs finished; the same command with hydra.sweep.dir=" in err
        assert status(wanted[0].parent)["reason"] == "stopped with the sweep"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("one_gpu_each", 2),
        ("n_jobs", 0),
        ("n_jobs", -2),
        ("n_jobs", None),
        ("n_jobs", "all"),
        ("threads", 0),
        ("threads", 1.5),
        ("jobs_per_worker", True),
        ("timeout_min", -1),
        ("timeout_min", float("nan")),
        ("mem_gb", float("inf")),
    ],
)
def test_invalid_settings_of_the_launcher_are_refused_by_name(name, value):
    settings = {
        "n_jobs": 1,
        "threads": None,
        "jobs_per_worker": 1,
        "timeout_min": None,
        "mem_gb": None,
        "one_gpu_each": False,
    }
    with pytest.raises(UserError, match=rf"^hydra.launcher.{name}={value}: use (a .*number above 0, or|true)"):
        limits(**{**settings, name: value})


def test_parallel_jobs_share_the_cores_unless_threads_are_set():
    settings = {"jobs_per_worker": None, **UNLIMITED}
    assert limits(1, None, **settings).environment == {}
    assert set(limits(1000, None, **settings).environment.items()) == {(name, "1") for name in THREAD_VARIABLES}
    assert set(limits(1000, 3, **settings).environment.values()) == {"3"}


def test_the_launcher_is_registered_where_hydra_does_not_search(monkeypatch):
    # Hydra's search misses editable installations.
    plugins = Plugins.instance()
    name = "hydra_plugins.counterpoise_launcher.launcher.ProcessLauncher"
    monkeypatch.setattr(plugins, "class_name_to_class", {})
    record_status(lambda run: None)
    assert name in plugins.class_name_to_class
