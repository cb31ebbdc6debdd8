"""The progress of a sweep in the terminal: one line when a job ends, with the overrides in which the jobs differ."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from counterpoise.analysis.job_folders import Job
from counterpoise.sweep.processes import Outcome
from counterpoise.terminal import console, duration


class Progress:
    """Prints the progress of a sweep.

    Args:
        total: Number of jobs of the sweep.
        missing: Number of those that have to run.
        shared: Overrides that all jobs share.
        describe: Returns the other overrides of a job as text.
        sweep_dir: Folder of the sweep.
        n_jobs: Jobs at the same time.
        measure: Name of the value that the jobs return.
    """

    def __init__(
        self,
        total: int,
        missing: int,
        shared: Sequence[str],
        describe: Callable[[Job], str],
        sweep_dir: Path,
        n_jobs: int,
        measure: str = "value",
    ) -> None:
        self.describe, self.measure = describe, measure
        self.missing, self.total, self.sweep_dir, self.n_jobs = missing, total, sweep_dir, n_jobs
        self.done = self.failed = 0
        self.begun = time.monotonic()
        at_once = f", {n_jobs} at a time" if n_jobs > 1 else ""
        _print(f"sweep of {_jobs(self.total)}{at_once}, in {sweep_dir}")
        if shared:
            _print(f"every job: {' '.join(shared)}")
        if self.missing < self.total:
            _print(f"{self.total - self.missing} of {_jobs(self.total)} finished earlier and are skipped")

    def started(self, job: Job) -> None:
        """Announce a job whose output follows."""
        if self.n_jobs == 1:
            _print(f"job {job.number} ({self.done + 1} of {self.missing}): {self.describe(job)}")

    def ended(self, job: Job, outcome: Outcome, state: str) -> None:
        """Say how a job ended, and how long the others will take.

        Args:
            job: The job.
            outcome: Its end.
            state: "finished", "failed" or "pruned".
        """
        failed = state == "failed"
        self.done += 1
        self.failed += failed
        left = (time.monotonic() - self.begun) / self.done * (self.missing - self.done)
        state = f"{state} in {duration(outcome.seconds)}"
        if failed:
            detail = f" ({outcome.reason})" if outcome.reason else ""
        else:
            detail = f", {self.measure} {outcome.value:.4f}" if isinstance(outcome.value, float) else ""
        remaining = f"; about {duration(left)} left" if left else ""
        _print(f"[{self.done}/{self.missing}] job {job.number}, {self.describe(job)}: {state}{detail}{remaining}")

    def stopped(self, cause: str) -> None:
        """Say what stopped the sweep, how far it came and how to run the rest."""
        finished = self.total - self.missing + self.done - self.failed
        line = f"stopped by {cause}: {finished} of {_jobs(self.total)} finished; the same command with hydra.sweep.dir="
        print(f"{line}{self.sweep_dir} runs the others", file=sys.stderr)


def _print(line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def _jobs(number: int) -> str:
    return f"{number:,} job{'' if number == 1 else 's'}"
