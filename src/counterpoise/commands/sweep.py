"""The Hydra callback that keeps a sweep's leaderboard, and compares its strategies at the end."""

import logging
import time
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from counterpoise.analysis import leaderboard
from counterpoise.analysis.comparison import collect
from counterpoise.commands import compare
from counterpoise.errors import UserError

log = logging.getLogger(__name__)


EVERY = 10.0
"""Seconds between two leaderboards at least: jobs may end faster than it is drawn."""


SHOWN = 30
"""Jobs of which the terminal shows each: of more, the files do, and the comparison says what they come to."""


class LeaderboardCallback(Callback):
    """Rewrites the leaderboard as jobs of a sweep end; at the end shows and compares, exits with 1 if one failed.

    Does nothing in a single run. A leaderboard that cannot be written is a warning, never the end of a sweep.
    Hydra reaches the end of a sweep only when no job raised: a job that fails should write its `status.json`
    and return.
    """

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Rewrites the leaderboard of the sweep that the job belongs to, unless that was done a moment ago."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        # A job that raises ends the sweep: there may be no other call.
        if job_return.status == JobStatus.FAILED or not _recent(_sweep_dir(config) / "leaderboard.csv"):
            _write(_sweep_dir(config), final=False)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Writes and shows the final leaderboard and the comparison. Raises SystemExit(1) if a job failed."""
        sweep_dir = _sweep_dir(config)
        table = _write(sweep_dir, final=True)
        console, failed = Console(), table.state == "failed"
        shown = table if len(table) <= SHOWN else table[failed]
        if len(shown):
            leaderboard.show(shown, console)
        if leaderboard.differ(table) and not leaderboard.differ(shown):
            console.print(f"finished jobs were {leaderboard.DIFFERENT}")
        console.print(str(sweep_dir / "leaderboard.md"), soft_wrap=True, highlight=False, markup=False)
        if (table.state == "finished").sum() > 1:
            _compare(sweep_dir, console)
        # Hydra turns an Exception from a callback into a warning; a SystemExit passes.
        if failed.any():
            raise SystemExit(1)


def _sweep_dir(config: DictConfig) -> Path:
    """Returns the sweep's folder, absolute: a job may run in a folder of its own."""
    return Path(config.hydra.runtime.cwd, config.hydra.sweep.dir)


def _compare(sweep_dir: Path, console: Console) -> None:
    try:
        with console.status("comparing the runs"):
            comparison = collect([str(sweep_dir)])
        compare.show(comparison, console)
        compare.write(sweep_dir, comparison, compare.drawn_groups(comparison, None))
        console.print(str(sweep_dir / "comparison.html"), soft_wrap=True, highlight=False, markup=False)
    except UserError as error:
        # A sweep over data or splits has no common test texts, which is no mistake.
        log.info("the runs are not compared: %s", error)
    except Exception as error:
        log.warning("The comparison in %s is missing: %s: %s", sweep_dir, type(error).__name__, error)


def _recent(path: Path) -> bool:
    return path.is_file() and 0 <= time.time() - path.stat().st_mtime < EVERY


def _write(sweep_dir: Path, final: bool) -> pd.DataFrame:
    try:
        return leaderboard.write(sweep_dir, final)
    except Exception as error:
        log.warning("The leaderboard in %s is not up to date: %s: %s", sweep_dir, type(error).__name__, error)
        return leaderboard.collect(sweep_dir, final)
