"""Processes of a run: their number is limited by the machine, and they end with their parent."""

import multiprocessing
import os
import signal
import time

import pytest
import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only as other_rank_zero_only
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import nn

from counterpoise.training import signals
from counterpoise.training.processes import (
    GIB,
    LAUNCHER,
    available_memory,
    check_cores,
    check_memory,
    check_run_folder,
    end_with_launcher,
)
from counterpoise.training.trainer import build
from refusals import user_error

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize("devices", [CORES + 2, str(CORES + 2), 99, 10**6])
def test_more_processes_than_cores_are_refused_in_one_line(devices):
    error = user_error(check_cores, {"accelerator": "cpu", "devices": devices})
    assert f"trainer.devices={devices}" in error
    assert f"at most {max(CORES, 2)}" in error


@pytest.mark.parametrize("devices", [1, 2, "2", "auto", [0], None, -1])
def test_other_values_are_left_to_lightning(devices):
    check_cores({"accelerator": "cpu", "devices": devices})


def machine(folder, available: int, groups: dict[str, dict[str, str]]):
    """Write the files of a Linux system: available GiB, and limits by folder of the control group."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {available * GIB // 1024} kB\n")
    (folder / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in groups))
    for limits in groups.values():
        for path, limit in limits.items():
            (folder / "sys/fs/cgroup" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "sys/fs/cgroup" / path).write_text(f"{limit}\n")
    return folder


@pytest.mark.parametrize(
    ("groups", "limited"),
    [
        ({}, False),
        ({"0::/": {"memory.max": "max"}}, False),
        ({"0::/": {"memory.max": str(8 * GIB)}}, True),
        ({"0::/job/step": {"job/step/memory.max": "max", "job/memory.max": str(8 * GIB)}}, True),
        ({"3:cpuset:/a": {"cpuset/a/memory.limit_in_bytes": "1"}}, False),
        ({"4:memory:/a": {"memory/a/memory.limit_in_bytes": str(8 * GIB)}}, True),
        ({"4:memory:/host": {"memory/memory.limit_in_bytes": str(8 * GIB)}}, True),
    ],
)
def test_the_memory_of_the_machine_and_of_its_control_groups_limits_the_processes(groups, limited, tmp_path):
    available = available_memory(machine(tmp_path, 20, groups))
    assert available == 20 * GIB if not limited else 4 * GIB < available < 8 * GIB


@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_more_processes_than_memory_allows_are_refused_before_they_start(strategy, tmp_path):
    trainer = build(accelerator="cpu", devices=8, strategy=strategy, logger=False)
    model = nn.Linear(1024, 1024)
    check_memory(trainer, model, machine(tmp_path / "large", 200, {}))
    error = user_error(check_memory, trainer, model, machine(tmp_path / "small", 1, {}))
    assert "trainer.devices=8" in error
    assert "1.0 GiB are available" in error
    check_memory(build(accelerator="cpu", devices=1, logger=False), model, tmp_path / "small")
    check_memory(trainer, model, tmp_path / "no Linux")


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM, None])
def test_a_process_ends_when_its_launcher_has_ended(signal_number, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    receiving, sending = os.pipe()
    launcher = os.fork()
    if not launcher:
        end_with_launcher()
        os.environ["LOCAL_RANK"] = "1"
        if not os.fork():
            end_with_launcher()
            os.write(sending, b"started")
            time.sleep(600)
        elif signal_number is not None:
            time.sleep(600)
        else:
            time.sleep(0.2)
        os._exit(0)
    os.close(sending)
    assert os.read(receiving, 7) == b"started"
    if signal_number is not None:
        os.kill(launcher, signal_number)
    os.waitpid(launcher, 0)
    start = time.monotonic()
    # The pipe is at its end when no process holds it.
    assert os.read(receiving, 1) == b""
    assert time.monotonic() - start < 60


def test_a_process_that_nobody_launched_outlives_its_parent(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv(LAUNCHER, "1")
    receiving, sending = os.pipe()
    parent = os.fork()
    if not parent:
        if not os.fork():
            end_with_launcher()
            time.sleep(1.5)
            os.write(sending, b"alive")
        os._exit(0)
    os.close(sending)
    os.waitpid(parent, 0)
    assert os.read(receiving, 5) == b"alive"


TORCHRUN = {"TORCHELASTIC_RUN_ID": "run", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
BATCH = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_ID": "7"}
BATCH |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
SRUN = {**BATCH, "SLURM_STEP_NUM_TASKS": "2"}


@pytest.fixture
def launched(monkeypatch):
    """Set the environment of a launcher."""
    for name in (*TORCHRUN, *SRUN):
        monkeypatch.delenv(name, raising=False)

    def set_all(environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    yield set_all
    rank_zero_only.rank = other_rank_zero_only.rank = 0


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "strategy", "fits"),
    [
        ({}, 1, 1, "auto", True),
        ({}, 2, 1, "auto", True),
        ({}, 1, 2, "auto", False),
        ({}, 2, 2, "ddp", False),
        (TORCHRUN, 2, 1, "ddp", True),
        (TORCHRUN, 1, 2, "ddp", True),
        (TORCHRUN, 1, 1, "auto", False),
        (TORCHRUN, 1, 4, "ddp", False),
        (TORCHRUN, 2, 1, "ddp_spawn", False),
        (BATCH, 1, 1, "auto", True),
        (BATCH, 2, 1, "ddp", False),
        (SRUN, 2, 1, "ddp", True),
        (SRUN, 1, 1, "auto", False),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "1"}, 2, 1, "ddp", False),
        ({**SRUN, "SLURM_JOB_NAME": "bash", "SLURM_STEP_NUM_TASKS": "1"}, 2, 1, "ddp", True),
    ],
)
def test_the_processes_that_torchrun_or_srun_started_must_be_those_of_the_trainer(
    environment, devices, nodes, strategy, fits, launched
):
    launched(environment)
    settings = {"accelerator": "cpu", "devices": devices, "num_nodes": nodes, "strategy": strategy, "logger": False}
    if fits:
        assert build(**settings).world_size == devices * nodes
    else:
        error = user_error(build, **settings)
        assert "torchrun" in error


@pytest.mark.parametrize("environment", [TORCHRUN, SRUN])
def test_several_started_processes_need_one_run_folder(environment, launched):
    check_run_folder("outputs/${now:%H-%M-%S-%f}")
    launched(environment)
    check_run_folder("outputs/night")
    error = user_error(check_run_folder, "outputs/${now:%H-%M-%S-%f}")
    assert "hydra.run.dir=outputs/NAME" in error


def test_a_spawned_process_that_does_not_stop_is_killed(monkeypatch):
    def ignore_signals(ready) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ready.set()
        time.sleep(600)

    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    process = fork.Process(target=ignore_signals, args=(ready,))
    process.start()
    ready.wait()
    trainer = build(accelerator="cpu", devices=2, strategy="ddp_spawn", logger=False)
    trainer.strategy.launcher.procs = [process]
    monkeypatch.setattr(signals, "JOIN", 0.1)
    with signals.handled():
        with pytest.raises(signals.Stopped) as stop:
            os.kill(os.getpid(), signal.SIGTERM)
        signals.StopOnSignal().on_exception(trainer, None, stop.value)
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_a_timeout_without_length_is_refused(minutes):
    error = user_error(build, accelerator="cpu", devices=2, timeout=minutes, logger=False)
    assert f"trainer.timeout={minutes}" in error
