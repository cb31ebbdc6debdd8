"""A worker process of a sweep: runs the jobs that it receives, one after another."""

import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from counterpoise.terminal import make_output_safe, user_error_line

OUT_OF_MEMORY_SCORE = "500"
"""Makes the system kill a job before the process of the sweep when memory runs out."""


@dataclass(frozen=True)
class Program:
    """What the jobs of a sweep have in common; arguments of Hydra's `run_job`."""

    config: DictConfig
    hydra_context: HydraContext
    task: TaskFunction
    singletons: Any
    argv: list[str]


@dataclass(frozen=True)
class Started:
    """A job has begun in its folder."""

    folder: Path


@dataclass(frozen=True)
class Ended:
    """A job has returned a value, or has failed for a reason."""

    value: Any = None
    reason: str | None = None


def main(descriptor: int) -> None:
    """Run jobs until told to end, and end with all child processes if the parent ends.

    Args:
        descriptor: File descriptor of the connection to the parent. It sends a `Program`, then a number and overrides
            for each job, then None.
    """
    connection = Connection(descriptor)
    with suppress(OSError):  # Linux only
        Path("/proc/self/oom_score_adj").write_text(OUT_OF_MEMORY_SCORE)
    received: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, received), daemon=True).start()
    make_output_safe()
    program: Program = cloudpickle.loads(received.get())
    sys.argv = program.argv
    while job := cloudpickle.loads(received.get()):
        number, overrides = job
        connection.send_bytes(cloudpickle.dumps(_run(program, number, overrides, connection)))


def _receive(connection: Connection, received: "queue.SimpleQueue[bytes]") -> None:
    """Put messages into the queue; kill the process group when the parent has ended, whatever ended it."""
    with suppress(EOFError, OSError):
        while True:
            received.put(connection.recv_bytes())
    os.killpg(0, signal.SIGKILL)


def _run(program: Program, number: int, overrides: Sequence[str], connection: Connection) -> Ended:
    try:
        setup_globals()
        Singleton.set_state(program.singletons)
        config = program.hydra_context.config_loader.load_sweep_config(program.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = f"{config.hydra.job.name}_{number}"
            config.hydra.job.num = number
        HydraConfig.instance().set_config(config)
        folder = Path(str(config.hydra.sweep.dir), str(OmegaConf.select(config, "hydra.sweep.subdir"))).absolute()
        connection.send_bytes(cloudpickle.dumps(Started(folder)))
        result = run_job(
            task_function=program.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            hydra_context=program.hydra_context,
        )
        if result.status == JobStatus.FAILED:
            raise result._return_value
        return Ended(result.return_value)
    except Exception as error:
        line = user_error_line(error)
        if line is None:
            traceback.print_exc()
        return Ended(reason=line or f"{type(error).__name__}: {' '.join(str(error).split())}")
