"""One batch of a sweep: skip finished jobs, run the others in worker processes, report each and record the failures."""

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import joblib
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from counterpoise import stop_signals
from counterpoise.analysis.job_folders import (
    Job,
    differing_overrides,
    find_folders,
    finished_value,
    has_finished,
    read_status,
    record_failure,
)
from counterpoise.errors import UserError
from counterpoise.io import exclusive
from counterpoise.sweep.processes import THREAD_VARIABLES, Limits, Outcome, Queue, run_jobs
from counterpoise.sweep.progress import Progress
from counterpoise.sweep.worker import Program


def limits(
    n_jobs: int,
    threads: int | None,
    jobs_per_worker: int | None,
    timeout_min: float | None,
    mem_gb: float | None,
    one_gpu_each: bool,
) -> Limits:
    """Return the limits for the settings of `hydra.launcher`.

    Args:
        n_jobs: Jobs at the same time; -1 for one per core.
        threads: Threads of each job; None divides the cores among the jobs.
        jobs_per_worker: Jobs that a worker process runs before it is replaced; None for no limit.
        timeout_min: Minutes after which a job is stopped; None for no limit.
        mem_gb: GiB of memory above which a job is killed; None for no limit.
        one_gpu_each: Whether each job gets a GPU that no other job uses.

    Raises:
        UserError: A setting is not a number in its range.
    """
    _check_number("n_jobs", n_jobs, whole=True, also=-1)
    for name, value, whole in (
        ("threads", threads, True),
        ("jobs_per_worker", jobs_per_worker, True),
        ("timeout_min", timeout_min, False),
        ("mem_gb", mem_gb, False),
    ):
        _check_number(name, value, whole, also=None)
    if not isinstance(one_gpu_each, bool):
        raise UserError(f"hydra.launcher.one_gpu_each={one_gpu_each}: use true or false")
    if mem_gb is not None and not Path("/proc/self/stat").exists():
        raise UserError("hydra.launcher.mem_gb needs Linux: set it to null")
    cores = joblib.cpu_count()
    n_jobs = cores if n_jobs == -1 else n_jobs
    if threads is None and n_jobs > 1:
        threads = max(1, cores // n_jobs)
    return Limits(
        n_jobs=n_jobs,
        jobs_per_worker=jobs_per_worker,
        seconds=None if timeout_min is None else 60 * timeout_min,
        bytes=None if mem_gb is None else mem_gb * 2**30,
        one_gpu_each=one_gpu_each,
        environment={} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads)),
    )


def _check_number(name: str, value: object, whole: bool, also: object) -> None:
    valid = (
        isinstance(value, int if whole else int | float) and not isinstance(value, bool) and 0 < value < float("inf")
    )
    if value != also and not valid:
        kind = "a whole number" if whole else "a number"
        raise UserError(f"hydra.launcher.{name}={value}: use {kind} above 0, or {'null' if also is None else also}")


def launch(
    config: DictConfig,
    hydra_context: HydraContext,
    task: TaskFunction,
    limits: Limits,
    job_overrides: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """Run the jobs of a batch that have not finished earlier, and return the values of all.

    Args:
        config: Configuration of the sweep.
        hydra_context: Hydra's configuration loader and callbacks.
        task: The function to run.
        limits: Limits of jobs and workers.
        job_overrides: The overrides of each job.
        first: Number of the first job.

    Raises:
        UserError: Another sweep is running in the folder.
        Stopped: A signal arrived. Running jobs have been stopped.
    """
    with sweep_folder(config) as sweep_dir:
        jobs = find_folders(sweep_dir, job_overrides, first)
        values: dict[int, Any] = {
            job.number: finished_value(job.folder)
            for job in jobs
            if job.folder is not None and has_finished(job.folder, job.overrides)
        }
        missing = [job for job in jobs if job.number not in values]
        shared, texts = differing_overrides(jobs)
        described = {job.number: text for job, text in zip(jobs, texts, strict=True)}
        progress = Progress(
            len(jobs),
            len(missing),
            shared,
            lambda job: described[job.number],
            sweep_dir,
            limits.n_jobs,
            str(config.get("monitor", "value")),
        )
        program = Program(config, hydra_context, task, Singleton.get_state(), list(sys.argv))

        def ended(job: Job, outcome: Outcome) -> None:
            values[job.number] = outcome.value

        run_queue(program, deque(missing), limits, progress, ended)
    return [_returned(job, values[job.number]) for job in jobs]


@contextmanager
def sweep_folder(config: DictConfig) -> Iterator[Path]:
    """Hold the folder of the sweep, which is created, and turn signals into `Stopped`.

    Raises:
        UserError: Another sweep is running in the folder.
    """
    sweep_dir = Path(str(config.hydra.sweep.dir)).absolute()
    sweep_dir.mkdir(parents=True, exist_ok=True)
    refusal = f"another sweep is running in {sweep_dir}: wait for its end, or set hydra.sweep.dir"
    with exclusive(sweep_dir / ".sweep.lock", refusal), stop_signals.handled():
        yield sweep_dir


def run_queue(
    program: Program, waiting: Queue, limits: Limits, progress: Progress, ended: Callable[[Job, Outcome], None]
) -> None:
    """Run the jobs in worker processes, print the progress and record failures.

    Args:
        program: What the jobs have in common.
        waiting: The jobs.
        limits: Limits of jobs and workers.
        progress: Prints the progress.
        ended: Called with each job that has ended and its outcome.

    Raises:
        Stopped: A signal arrived. Running jobs have been stopped.
    """
    config, callbacks, sweep_dir = program.config, program.hydra_context.callbacks, progress.sweep_dir
    running: dict[int, Job] = {}
    try:
        with closing(run_jobs(cloudpickle.dumps(program), waiting, limits)) as events:
            for job, outcome in events:
                if outcome is None:
                    running[job.number] = job
                    if job.folder is not None:  # What it holds later belongs to this attempt.
                        (job.folder / "status.json").unlink(missing_ok=True)
                    progress.started(job)
                    continue
                del running[job.number]
                state = record(job, outcome, sweep_dir)
                if outcome.died:
                    died = JobReturn(overrides=list(job.overrides), status=JobStatus.FAILED)
                    callbacks.on_job_end(config=config, job_return=died)
                progress.ended(job, outcome, state)
                ended(job, outcome)
    except BaseException as end:
        for job in running.values():
            folder = job.folder or sweep_dir / str(job.number)
            if folder.is_dir() and read_status(folder).get("state") in (None, "running"):
                record_failure(folder, job.overrides, "stopped with the sweep", 0.0)
        # The end of the last job: callbacks update the leaderboard.
        callbacks.on_job_end(config=config, job_return=JobReturn(status=JobStatus.FAILED))
        if isinstance(end, stop_signals.Stopped):
            progress.stopped(end.cause)
        raise


def record(job: Job, outcome: Outcome, sweep_dir: Path) -> str:
    """Write the reason of a failure that the job has not recorded itself.

    Returns:
        "finished", "failed" or "pruned".
    """
    folder = outcome.folder or job.folder or sweep_dir / str(job.number)
    state = read_status(folder).get("state")
    if state in ("finished", "pruned"):  # it may have died afterwards
        return str(state)
    if outcome.reason is not None and (outcome.killed or state != "failed"):
        record_failure(folder, job.overrides, outcome.reason, outcome.seconds)
    return "failed" if outcome.reason is not None or state == "failed" else "finished"


def _returned(job: Job, value: Any) -> JobReturn:
    """Return what Hydra expects of a job. A sweeper reads the value None of a failed job and continues."""
    result = JobReturn(overrides=list(job.overrides), status=JobStatus.COMPLETED)
    result.return_value = value
    return result
