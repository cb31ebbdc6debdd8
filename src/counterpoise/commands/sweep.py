"""Hydra callback that updates the leaderboard of a sweep and compares its strategies at the end."""

import logging
import time
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from counterpoise.analysis import leaderboard, leaderboard_table
from counterpoise.analysis.comparison import compare_runs
from counterpoise.analysis.search_results import read_search
from counterpoise.commands.comparison_output import drawn_groups, show, write
from counterpoise.commands.parameter_search import show_search
from counterpoise.errors import UserError
from counterpoise.terminal import console, status

log = logging.getLogger(__name__)

UPDATE_SECONDS = 10.0
"""Minimum time between two updates of the leaderboard, in seconds."""
SHOWN = 30
"""Maximum number of jobs listed in the terminal. Larger sweeps list failed jobs only; the files hold all."""


class LeaderboardCallback(Callback):
    """Update the leaderboard after each job; at the end print it, compare the runs and exit with 1 if a job failed.

    Does nothing in a single run. A leaderboard that cannot be written causes a warning and does not end the sweep.
    Hydra reaches the end of a sweep only if no job raises: a failed job should write its `status.json` and return.
    """

    def __init__(self) -> None:
        self.started = time.time()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Keep the time, to recognise the jobs that an earlier sweep in the same folder has finished."""
        self.started = time.time()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Update the leaderboard of the job's sweep, at most once per `UPDATE_SECONDS` seconds."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        # A job that raises ends the sweep: this may be the last call.
        if job_return.status == JobStatus.FAILED or not _recent(_sweep_dir(config) / "leaderboard.csv"):
            _write(_sweep_dir(config), final=False)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write and print the final leaderboard and the comparison.

        Raises:
            SystemExit: With code 1 if a job failed.
        """
        sweep_dir = _sweep_dir(config)
        table = _write(sweep_dir, final=True)
        failed = table.state == "failed"
        console.quiet = False  # the jobs of a sweep of linear probes are quiet
        shown = table if len(table) <= SHOWN else table[failed]
        jobs = table[table.setting != leaderboard.BASELINE]
        earlier = sum(_modified(sweep_dir / job) < self.started for job in jobs.job[jobs.state == "finished"])
        if earlier:
            console.print(f"{earlier} of {len(jobs)} jobs had finished earlier and were skipped", highlight=False)
        if len(shown):
            leaderboard_table.show(shown, console)
        if leaderboard.have_different_test_sets(table) and not leaderboard.have_different_test_sets(shown):
            console.print(f"finished jobs were {leaderboard.INCOMPARABLE}")
        console.print(str(sweep_dir / "leaderboard.csv"), soft_wrap=True, highlight=False, markup=False)
        search = read_search(sweep_dir)
        if (table.state == "finished").sum() > 1:
            _compare(sweep_dir, printed=search is None)
        if search is not None:
            show_search(sweep_dir, search)
        # Hydra turns an Exception from a callback into a warning; a SystemExit passes.
        if failed.any():
            raise SystemExit(1)


def _sweep_dir(config: DictConfig) -> Path:
    """Return the absolute sweep folder. A job may run in its own working directory."""
    return Path(config.hydra.runtime.cwd, config.hydra.sweep.dir)


def _modified(folder: Path) -> float:
    return (folder / "status.json").stat().st_mtime


def _compare(sweep_dir: Path, printed: bool) -> None:
    """Write the comparison, and print it unless it compares the single runs of a search."""
    try:
        with status("comparing the runs"):
            comparison = compare_runs([str(sweep_dir)])
        if printed:
            show(comparison, console)
        write(sweep_dir, comparison, drawn_groups(comparison, None))
        console.print(str(sweep_dir / "comparison.html"), soft_wrap=True, highlight=False, markup=False)
    except UserError as error:
        # A sweep over data or splits has no common test texts. This is not an error.
        log.info("runs not compared: %s", error)
    except Exception as error:
        log.warning("The comparison in %s is missing: %s: %s", sweep_dir, type(error).__name__, error)


def _recent(path: Path) -> bool:
    return path.is_file() and 0 <= time.time() - path.stat().st_mtime < UPDATE_SECONDS


def _write(sweep_dir: Path, final: bool) -> pd.DataFrame:
    try:
        return leaderboard.write(sweep_dir, final)
    except Exception as error:
        log.warning("The leaderboard in %s is not up to date: %s: %s", sweep_dir, type(error).__name__, error)
        return leaderboard.collect(sweep_dir, final)
