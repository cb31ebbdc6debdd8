"""The Hydra sweepers of `sweep=auto`, `sweep=optuna` and of grids.

Hydra imports this file at every start: heavy imports are deferred.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
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


class OptunaSweeper(Sweeper):
    """Search hyperparameters with Optuna.

    Args:
        settings: Arguments of `counterpoise.commands.parameter_search.Settings`.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Check the settings, and instantiate the launcher."""
        from counterpoise.commands.parameter_search import Settings

        self.search = Settings(**self.settings)
        self.config, self.hydra_context, self.task = config, hydra_context, task_function
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the trials; return nothing."""
        from counterpoise.commands.parameter_search import run_search

        assert self.config is not None
        assert self.hydra_context is not None
        assert self.launcher is not None
        run_search(
            self.search,
            self.config,
            self.hydra_context,
            self.task,
            self.launcher,
            arguments,
            self.validate_batch_is_legal,
        )


class GridSweeper(BasicSweeper):
    """Run all combinations of the values, as Hydra's own sweeper, except those that over-correct.

    Args:
        at_most_one: Keys whose sum must not exceed 1, unless `strategy.allow_overcorrection` is true.
        max_batch_size: As of Hydra's BasicSweeper.
        params: Values by key.
    """

    def __init__(
        self, max_batch_size: int | None, params: Mapping[str, Any] | None, at_most_one: Sequence[str]
    ) -> None:
        super().__init__(max_batch_size, params)  # type: ignore[arg-type]
        self.at_most_one = at_most_one

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Leave out what has no effect, and instantiate the launcher."""
        from counterpoise.sweep.grid import without_encoder_lr

        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.params = without_encoder_lr(self.params, bool(config.probe))

    def split_arguments(  # type: ignore[override]
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """Return the overrides of the jobs, in batches."""
        from counterpoise.sweep.grid import without_over_correction

        assert self.config is not None
        (jobs,) = BasicSweeper.split_arguments(overrides, None)
        if not self.config.strategy.get("allow_overcorrection"):
            jobs = without_over_correction(jobs, self.at_most_one)
        return list(self.split_overrides_to_chunks(jobs, max_batch_size))
