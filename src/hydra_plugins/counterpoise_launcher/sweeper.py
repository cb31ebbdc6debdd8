"""The Hydra sweeper of `sweep=auto`. Hydra imports this file at every start: heavy imports are deferred."""

from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class AutoSweeper(Sweeper):
    """Train candidates within a time budget and combine the runs into one exported model.

    Args:
        budget: Time for everything, such as "30m". See `counterpoise.sweep.auto.read_budget`.
        candidates: See `counterpoise.sweep.auto.Search`.
        max_rounds: See `counterpoise.sweep.auto.Search`.
        reserve: See `counterpoise.sweep.auto.Search`.
        folds: See `counterpoise.sweep.auto.Search`. Not used if the data has a validation split (`data.validation`).
    """

    def __init__(
        self,
        budget: str,
        candidates: Sequence[str],
        max_rounds: int,
        reserve: float,
        folds: int | None = None,
        **others: Any,
    ) -> None:
        self.budget, self.candidates, self.max_rounds, self.reserve = budget, candidates, max_rounds, reserve
        self.folds = folds

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Check the settings, and instantiate the launcher."""
        from counterpoise.sweep.auto import Search, read_budget

        folds = self.folds if config.data.get("validation") is None else None
        self.search = Search(read_budget(self.budget), list(self.candidates), self.max_rounds, self.reserve, folds)
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Train, combine and export; return nothing."""
        from counterpoise.commands.auto_search import run_search

        assert self.config is not None
        assert self.launcher is not None
        run_search(self.search, self.config, self.launcher, arguments, self.validate_batch_is_legal)
