"""Runs of several processes: signals to any of them, a lost process, and processes that torchrun started."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commandline import ROOT, Outcome, environment, finish, setting, start

pytestmark = pytest.mark.e2e

MOMENTS = {
    "first step": ("on_before_backward", 1),
    "step": ("on_before_backward", 4),
    "validation": ("on_validation_batch_end", 2),
    "checkpoint": ("on_save_checkpoint", 1),
    "last validation": ("on_validation_end", 2),
}
"""Hooks and their calls."""
DEVICES = {"first": [0], "second": [1], "both": [0, 1]}
LONG = ["trainer.max_epochs=500", "callbacks.early_stopping=null"]


@pytest.fixture
def tiny(texts: dict[str, Path], tiny_encoder: Path, tmp_path: Path) -> list[str]:
    """Overrides of a run in two processes, in the folder "run"."""
    settings = [*setting(texts, tiny_encoder), "baseline=none", "loader.eval_batch_size=2", "trainer.max_epochs=2"]
    return [*settings, "trainer=ddp_cpu", f"hydra.run.dir={tmp_path / 'run'}"]


def at(moment: str, number: signal.Signals, devices: str, tmp_path: Path) -> str:
    hook, n = MOMENTS[moment]
    return (
        f"+callbacks.signal={{_target_: stopping.SignalAt, hook: {hook}, n: {n}, number: {number.value}, "
        f"devices: {DEVICES[devices]}, mark: '{tmp_path / 'signalled'}'}}"
    )


def run(tmp_path: Path, *settings: str) -> tuple[Outcome, float]:
    """Return the outcome of a run and the seconds since the signal."""
    done = finish(start(*settings), tmp_path / "run")
    assert (tmp_path / "signalled").exists(), done.err
    return done, time.time() - (tmp_path / "signalled").stat().st_mtime


def assert_stopped(done: Outcome) -> None:
    assert done.code == 143, done.err
    assert "Traceback" not in done.err
    assert done.err.count("stopped by SIGTERM; to resume: ") == 1
    assert (done.status["state"], done.status["reason"]) == ("failed", "stopped by SIGTERM")
    assert (done.folder / "checkpoints/last.ckpt").exists()


@pytest.mark.soak
def test_a_signal_to_one_process_stops_all_with_a_checkpoint(tiny, tmp_path):
    done, _ = run(tmp_path, *tiny, at("step", signal.SIGTERM, "second", tmp_path))
    assert_stopped(done)
    assert done.last["global_step"] == 4


@pytest.mark.soak
@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_any_moment_stops_all_processes_within_10_seconds(moment, devices, tiny, tmp_path):
    done, seconds = run(tmp_path, *tiny, at(moment, signal.SIGTERM, devices, tmp_path))
    assert_stopped(done)
    assert seconds < 10


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def running(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def wait_for(pids: list[int]) -> float:
    """Return the seconds until the processes have ended, at most 60."""
    started = time.monotonic()
    while any(map(running, pids)) and time.monotonic() - started < 60:
        time.sleep(0.05)
    return time.monotonic() - started


def wait_for_checkpoint(process: "subprocess.Popen[str]", folder: Path) -> None:
    while not (folder / "checkpoints/last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.05)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(6))
def test_a_signal_from_outside_stops_all_processes_within_10_seconds(seed, tiny, tmp_path):
    process = start(*tiny, *LONG)
    wait_for_checkpoint(process, tmp_path / "run")
    time.sleep(random.Random(seed).random() * 2)
    pids = [process.pid, *children(process.pid)]
    for pid in [pids, pids[:1], pids[1:]][seed % 3]:
        os.kill(pid, signal.SIGTERM)
    assert wait_for(pids) < 10
    assert_stopped(finish(process, tmp_path / "run"))


@pytest.mark.soak
@pytest.mark.parametrize("to", ["parent", "child"])
def test_a_signal_stops_spawned_processes(to, tiny, tmp_path):
    process = start(*tiny, *LONG, "trainer.strategy=ddp_spawn")
    wait_for_checkpoint(process, tmp_path / "run")
    pids = children(process.pid)
    os.kill(process.pid if to == "parent" else pids[-1], signal.SIGTERM)
    assert wait_for([process.pid, *pids]) < 10
    assert_stopped(finish(process, tmp_path / "run"))


@pytest.mark.soak
@pytest.mark.parametrize("moment", ["step", "validation"])
def test_a_lost_process_ends_the_run_with_one_line(moment, tiny, tmp_path):
    done, seconds = run(tmp_path, *tiny, at(moment, signal.SIGKILL, "second", tmp_path))
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "device 1 was ended by SIGKILL" in done.error
    assert "SIGKILL" in done.status["reason"]
    assert seconds < 10


@pytest.mark.soak
@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
@pytest.mark.parametrize("seconds", [1, 5, 20])
def test_no_process_outlives_a_killed_parent(strategy, seconds, tiny, tmp_path):
    process = start(*tiny, *LONG, f"trainer.strategy={strategy}")
    while not children(process.pid):
        time.sleep(0.05)
    time.sleep(seconds)
    pids = children(process.pid)
    process.kill()
    process.communicate()
    assert wait_for(pids) < 30


@pytest.mark.soak
def test_a_process_that_waits_in_vain_gives_up_after_the_timeout(tiny, tmp_path):
    process = start(*tiny, *LONG, "trainer.timeout=0.5")
    wait_for_checkpoint(process, tmp_path / "run")
    (second,) = children(process.pid)
    os.kill(second, signal.SIGSTOP)
    done = finish(process, tmp_path / "run")
    assert done.code == 1
    assert done.status["state"] == "failed"


def nodes(*overrides: str) -> list["subprocess.Popen[str]"]:
    """Start two nodes on this machine, each with torchrun and one process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    torchrun += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    return [
        subprocess.Popen(
            [*torchrun, f"--node-rank={node}", str(ROOT / "train.py"), *overrides],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in (0, 1)
    ]


@pytest.mark.soak
def test_two_nodes_give_the_same_scores_as_two_processes_of_one(tiny, tmp_path):
    one = finish(start(*tiny[:-1], f"hydra.run.dir={tmp_path / 'one'}"), tmp_path / "one")
    agents = nodes(*tiny, "trainer.devices=1", "trainer.num_nodes=2")
    outcomes = [finish(agent, tmp_path / "run") for agent in agents]
    assert [done.code for done in outcomes] == [0, 0], [done.err for done in outcomes]
    assert outcomes[0].metrics["test"] == pytest.approx(one.metrics["test"], abs=1e-6)
    assert outcomes[0].out.count("results with the best checkpoint") == 1
    assert "results" not in outcomes[1].out


@pytest.mark.soak
def test_a_signal_to_one_node_stops_both(tiny, tmp_path):
    agents = nodes(*tiny, "trainer.devices=1", "trainer.num_nodes=2", at("step", signal.SIGTERM, "first", tmp_path))
    for agent in agents:
        assert finish(agent, tmp_path / "run").code == 1
    status = json.loads((tmp_path / "run/status.json").read_text())
    assert status["reason"] == "stopped by SIGTERM"
    assert (tmp_path / "run/checkpoints/last.ckpt").exists()
