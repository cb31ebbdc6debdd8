"""The Hydra callback that keeps a sweep's leaderboard."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from counterpoise.evaluate import leaderboard

log = logging.getLogger(__name__)


class LeaderboardCallback(Callback):
    """Rewrites the leaderboard after each job of a sweep; at the end shows it, exits with 1 if one failed.

    Does nothing in a single run. A leaderboard that cannot be written is a warning, never the end of a sweep.
    Hydra reaches the end of a sweep only when no job raised: a job that fails should write its `status.json`
    and return.
    """

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Rewrites the leaderboard of the sweep that the job belongs to."""
        if config.hydra.mode == RunMode.MULTIRUN:
            _write(_sweep_dir(config), final=False)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Writes and shows the final leaderboard. Raises SystemExit(1) if a job failed."""
        sweep_dir = _sweep_dir(config)
        table = _write(sweep_dir, final=True)
        console = Console()
        leaderboard.show(table, console)
        console.print(str(sweep_dir / "leaderboard.md"), soft_wrap=True, highlight=False, markup=False)
        # Hydra turns an Exception from a callback into a warning; a SystemExit passes.
        if (table.state == "failed").any():
            raise SystemExit(1)


def _sweep_dir(config: DictConfig) -> Path:
    """Returns the sweep's folder, absolute: a job may run in a folder of its own."""
    return Path(config.hydra.runtime.cwd, config.hydra.sweep.dir)


def _write(sweep_dir: Path, final: bool) -> pd.DataFrame:
    try:
        return leaderboard.write(sweep_dir, final)
    except Exception as error:
        log.warning("The leaderboard in %s is not up to date: %s: %s", sweep_dir, type(error).__name__, error)
        return leaderboard.collect(sweep_dir, final)
