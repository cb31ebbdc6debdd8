"""Processes of a run on several devices: their number and folder, and their end with their parent."""

import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher, _SubprocessScriptLauncher
from torch import nn

from counterpoise.errors import UserError

LAUNCHER = "COUNTERPOISE_LAUNCHER"
"""Environment variable: id of the process that started the other processes of the run."""
GIB = 2**30


def check_cores(trainer: Mapping[str, Any]) -> None:
    """Raise UserError for more processes than cores; two are accepted everywhere, for tests.

    Args:
        trainer: Settings of the trainer. On GPUs, Lightning compares `devices` with their number.
    """
    on_cpu = trainer.get("accelerator") == "cpu" or not torch.cuda.is_available()
    devices = str(trainer.get("devices"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if on_cpu and devices.isdigit() and int(devices) > max(cores, 2):
        raise UserError(
            f"trainer.devices={devices}: on a CPU each device is a process, and this machine has "
            f"{cores} core{'s' if cores != 1 else ''}. Use at most {max(cores, 2)}"
        )


def check_memory(trainer: pl.Trainer, model: nn.Module, root: Path = Path("/")) -> None:
    """Raise UserError if the processes that `trainer` will start need more memory than is available.

    Each of them needs at least what this process uses before training, and on a CPU also the gradients and the two
    moments of Adam.

    Args:
        trainer: The trainer, before `fit`.
        model: The loaded model.
        root: Root of the file system; differs in tests.
    """
    launcher, number = trainer.strategy.launcher, trainer.num_devices
    if isinstance(launcher, _MultiProcessingLauncher):
        started = number
    elif isinstance(launcher, _SubprocessScriptLauncher):
        started = 0 if launcher.cluster_environment.creates_processes_externally else number - 1
    else:
        started = 0
    available = available_memory(root)
    if available is None or not started:
        return
    used, training = _used_memory(), 0
    if trainer.strategy.root_device.type == "cpu":
        training = 3 * sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    needed = started * used + number * training
    if needed > available:
        fitting = number - started + max(0, available - (number - started) * training) // (used + training)
        raise UserError(
            f"trainer.devices={number}: {number} processes need at least {needed / GIB:.1f} GiB of memory in addition, "
            f"and {available / GIB:.1f} GiB are available. Use at most {max(1, fitting)}"
        )


def started_processes() -> int:
    """Return how many processes of this run torchrun or srun has started; 1 if neither did."""
    name = "WORLD_SIZE" if "TORCHELASTIC_RUN_ID" in os.environ else "SLURM_STEP_NUM_TASKS"
    return int(os.environ.get(name, 1))


def check_launch(trainer: pl.Trainer) -> None:
    """Raise UserError if torchrun or srun has started another number of processes than the trainer expects.

    Without this, the processes wait for others that do not exist, or each trains the whole model.
    """
    environment = trainer._accelerator_connector.cluster_environment
    started, expected = started_processes(), trainer.num_devices * trainer.num_nodes
    product = f"trainer.devices={trainer.num_devices} times trainer.num_nodes={trainer.num_nodes}"
    several = isinstance(environment, TorchElasticEnvironment | SLURMEnvironment) and expected > 1
    if started != expected and (started > 1 or several):
        raise UserError(
            f"torchrun or srun started {started} process{'es' * (started > 1)}, but {product} is {expected}: start one "
            "process per device"
        )
    if started > 1 and isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise UserError("trainer.strategy=ddp_spawn starts processes itself: use ddp with torchrun or srun")
    if trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment):
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes}: start the run on every node with torchrun or srun, see "
            "docs/devices.md"
        )


def check_run_folder(folder: str) -> None:
    """Raise UserError if processes that torchrun or srun started would each have their own run folder.

    Args:
        folder: `hydra.run.dir` before interpolation.
    """
    if started_processes() > 1 and "${now" in folder:
        raise UserError(
            f"{started_processes()} processes need the same run folder, which the time does not give them: set "
            "hydra.run.dir=outputs/NAME"
        )


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that new processes may use, within the limits of the machine and of the control groups.

    None where the system does not tell (no Linux).
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    rooms = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    for _, controllers, path in (line.split(":", 2) for line in groups):
        if controllers not in ("", "memory"):
            continue
        base = root / "sys/fs/cgroup" / controllers
        for folder in [base / part for part in (path.strip("/"), *map(str, Path(path.strip("/")).parents))]:
            for limit in (folder / "memory.max", folder / "memory.limit_in_bytes"):
                if limit.is_file() and (text := limit.read_text().strip()).isdigit():
                    rooms.append(max(0, int(text) - _used_memory()))
    return min(rooms, default=None)


def _used_memory() -> int:
    """Return the bytes of memory that this process shares with no file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def end_with_launcher() -> None:
    """End this process when the process ends that started it as one of several of a run, whatever ends that one.

    Without this, the processes wait for each other, or train on, when their parent has been killed.
    """
    own = os.getpid()
    if "LOCAL_RANK" not in os.environ:
        os.environ[LAUNCHER] = str(own)
        return
    launcher = int(os.environ.get(LAUNCHER, os.getppid()))
    if launcher != own:
        threading.Thread(target=_kill_without, args=(launcher,), name="parent watch", daemon=True).start()


def _kill_without(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
