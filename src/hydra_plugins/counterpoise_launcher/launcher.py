"""The Hydra launcher `hydra/launcher=processes`. Hydra imports this file at every start: heavy imports are deferred."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ProcessLauncher(Launcher):
    """Run the jobs of a sweep in worker processes; run again in the same folder, skip the finished ones.

    Args:
        settings: Arguments of `counterpoise.sweep.launch.limits`.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what the jobs have in common, and check the settings before the first job."""
        from counterpoise.sweep.launch import limits

        self.config, self.hydra_context, self.task = config, hydra_context, task_function
        self.limits = limits(**self.settings)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and return what they returned, None for failed ones."""
        from counterpoise.sweep.launch import launch

        return launch(self.config, self.hydra_context, self.task, self.limits, job_overrides, initial_job_idx)
