"""Worker processes of a sweep: a job that dies, hangs or takes too much memory does not affect the others."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

import cloudpickle

from counterpoise.analysis.job_folders import Job
from counterpoise.sweep.gpus import Gpus
from counterpoise.sweep.worker import Ended, Started

POLL_SECONDS = 0.25
"""Time between two checks of whether a worker is alive and within its limits."""
STOP_SECONDS = 20.0
"""Time that a stopped job has to save its state before it is killed."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
"""Environment variables that set the number of threads of numerical libraries."""

CODE = "import sys; sys.path[:] = sys.argv[2:]; from counterpoise.sweep.worker import main; main(int(sys.argv[1]))"
"""What a worker runs: its arguments are the descriptor of the connection and the parent's `sys.path`."""


@dataclass(frozen=True)
class Limits:
    """Limits of jobs and workers.

    Args:
        n_jobs: Jobs at the same time.
        jobs_per_worker: Jobs that a worker runs before it is replaced; None for no limit.
        seconds: Duration of a job; None for no limit.
        bytes: Memory of a job with its child processes, without mapped files; None for no limit.
        environment: Environment variables of the workers.
        one_gpu_each: Whether each worker gets its own GPU.
    """

    n_jobs: int = 1
    jobs_per_worker: int | None = 1
    seconds: float | None = None
    bytes: float | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    one_gpu_each: bool = False


@dataclass(frozen=True)
class Outcome:
    """The end of a job.

    Args:
        value: What it returned.
        reason: Why it failed; None if it returned.
        died: Whether its process ended.
        killed: Whether it was killed because of a limit.
        folder: Its folder; None if it died before it had one.
        seconds: Its duration.
    """

    value: Any
    reason: str | None
    died: bool
    killed: bool
    folder: Path | None
    seconds: float


class Queue(Protocol):
    """Jobs that wait: a deque, or a source that chooses the next job when a worker is free."""

    def __len__(self) -> int:
        """Return the number of jobs that are left."""

    def popleft(self) -> Job:
        """Remove the next job and return it."""


class Worker:
    """One worker process, in its own process group."""

    def __init__(self, program: bytes, environment: Mapping[str, str], gpu: str | None = None) -> None:
        self.gpu = gpu
        environment = environment if gpu is None else {**environment, "CUDA_VISIBLE_DEVICES": gpu}
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CODE, str(theirs.fileno()), *sys.path],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
                process_group=0,  # Ctrl-C reaches the parent only, and the worker's children can be killed with it.
            )
        self.connection = Connection(ours.detach())
        self.job: Job | None = None
        self.jobs = 0
        self._reset()
        self._send(program)

    def _reset(self) -> None:
        self.started = time.monotonic()
        self.folder: Path | None = None
        self.ended: Ended | None = None
        self.kill_reason: str | None = None
        self.kill_at = float("inf")

    def start(self, job: Job) -> None:
        """Give the worker a job."""
        self.job = job
        self.jobs += 1
        self._reset()
        self._send(cloudpickle.dumps((job.number, job.overrides)))

    def _send(self, message: bytes) -> None:
        with suppress(OSError):  # The worker has died: its end is seen at the next check.
            self.connection.send_bytes(message)

    def outcome(self, limits: Limits) -> Outcome | None:
        """Return how the current job has ended, or None while it runs within its limits and if there is none."""
        if self.job is None:
            return None
        alive = self.process.poll() is None
        with suppress(EOFError, OSError):
            while self.ended is None and self.connection.poll():
                message = cloudpickle.loads(self.connection.recv_bytes())
                if isinstance(message, Started):
                    self.folder, self.started = message.folder, time.monotonic()
                else:
                    self.ended = message
        seconds = time.monotonic() - self.started
        if self.ended is not None and self.kill_reason is None:
            return Outcome(self.ended.value, self.ended.reason, False, False, self.folder, seconds)
        if not alive:
            self.kill()
            killed = self.kill_reason is not None
            reason = self.kill_reason or _exit_reason(self.process.returncode)
            return Outcome(None, reason, True, killed, self.folder, seconds)
        self._enforce(limits, seconds)
        return None

    def _enforce(self, limits: Limits, seconds: float) -> None:
        if self.kill_reason is None and limits.bytes is not None:
            used = group_memory(self.process.pid)
            if used > limits.bytes:
                limit = limits.bytes / 2**30
                self.kill_reason = f"killed: {used / 2**30:.1f} GiB of memory exceed mem_gb={limit:g}"
                self.kill()
        # Starting the process and importing the program are not counted.
        if self.kill_reason is None and self.folder and limits.seconds is not None and seconds > limits.seconds:
            self.kill_reason = f"killed: it took longer than timeout_min={limits.seconds / 60:g}"
            self.stop()
        if time.monotonic() > self.kill_at:
            self.kill()

    def stop(self) -> None:
        """Ask the job to save its state and end."""
        self.kill_at = time.monotonic() + STOP_SECONDS
        with suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        """Kill the worker and its child processes."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def retire(self) -> None:
        """Tell an idle worker to end."""
        self._send(cloudpickle.dumps(None))
        self.kill_at = time.monotonic() + STOP_SECONDS


def run_jobs(program: bytes, waiting: Queue, limits: Limits) -> Generator[tuple[Job, Outcome | None]]:
    """Run the jobs in worker processes.

    Args:
        program: A pickled `Program`.
        waiting: The jobs, in the order in which they start. A job is taken when a worker is free.
        limits: Limits of jobs and workers.

    Yields:
        Each job with None when it starts and with its outcome when it has ended. A caller that stops iterating, by
        `close()` or an exception, stops the running jobs.
    """
    gpus = Gpus() if limits.one_gpu_each else None
    workers: list[Worker] = []
    retired: list[Worker] = []
    try:
        while waiting or any(worker.job for worker in workers):
            while waiting and (worker := _free_worker(workers, program, limits, gpus)):
                job = waiting.popleft()
                yield job, None
                worker.start(job)
            wait([worker.connection for worker in workers if worker.job], POLL_SECONDS)
            for worker in list(workers):
                current, outcome = worker.job, worker.outcome(limits)
                if outcome is not None:
                    worker.job = None
                used_up = worker.jobs == limits.jobs_per_worker or worker.process.poll() is not None
                if worker.job is None and used_up:
                    workers.remove(worker)
                    retired.append(worker)
                    worker.retire()
                if current and outcome:
                    yield current, outcome
            retired = [worker for worker in retired if not _has_ended(worker, gpus)]
    finally:
        _stop_all(workers + retired)


def _free_worker(workers: list[Worker], program: bytes, limits: Limits, gpus: Gpus | None) -> Worker | None:
    """Return an idle worker, or a new one, or None if as many as allowed run or no GPU is free."""
    for worker in workers:
        if worker.job is None and worker.process.poll() is None:
            return worker
    gpu = gpus.take() if gpus and len(workers) < limits.n_jobs else None
    if len(workers) >= limits.n_jobs or (gpus and gpu is None):
        return None
    workers.append(Worker(program, limits.environment, gpu))
    return workers[-1]


def _has_ended(worker: Worker, gpus: Gpus | None = None) -> bool:
    """Return whether a retired worker has ended; kill it if it takes too long."""
    if worker.process.poll() is None and time.monotonic() <= worker.kill_at:
        return False
    worker.kill()
    worker.process.wait()
    worker.connection.close()
    if gpus:
        gpus.give_back(worker.gpu)
    return True


def _stop_all(workers: list[Worker]) -> None:
    """End all workers: let running jobs save their state, then kill what is left. A second Ctrl-C kills at once."""
    try:
        for worker in workers:
            if worker.job:
                worker.stop()
            else:
                worker.retire()
        while workers := [worker for worker in workers if not _has_ended(worker)]:
            time.sleep(0.05)
    finally:
        for worker in workers:
            worker.kill()


def _exit_reason(code: int) -> str:
    """Return why a worker ended that had not finished its job."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"its process was killed by {name}{' (out of memory?)' if code == -signal.SIGKILL else ''}"


def group_memory(group: int) -> int:
    """Return the bytes of memory of a process group, without mapped files. Linux only."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, LookupError, ValueError):  # the process has ended
            if int((process / "stat").read_text().rpartition(")")[2].split()[2]) != group:
                continue
            lines = (line.split() for line in (process / "status").read_text().splitlines())
            total += sum(int(line[1]) * 1024 for line in lines if line and line[0] in ("RssAnon:", "RssShmem:"))
    return total
