"""Run `sweep=optuna`: choose the values of trials with Optuna, train them, and name the best one."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.text import Text

from counterpoise.analysis.search_results import SearchResults
from counterpoise.balance.validation import is_number
from counterpoise.errors import UserError
from counterpoise.metrics import registry
from counterpoise.sweep.grid import without_encoder_lr
from counterpoise.sweep.launch import run_queue, sweep_folder
from counterpoise.sweep.progress import Progress
from counterpoise.sweep.search_space import SearchSpace, option_text, read_space
from counterpoise.sweep.trial_storage import check_optuna
from counterpoise.sweep.worker import Program
from counterpoise.terminal import console, encodable
from counterpoise.training.monitors import better_mode
from counterpoise.training.next_steps import python
from counterpoise.training.shown_settings import shown_path
from hydra_plugins.counterpoise_launcher.launcher import ProcessLauncher

OF_THE_CONFIGURATION = ("monitor", "monitor_mode", "metrics", "train", "probe", "strategy")
"""Keys that decide how a search is done, which therefore cannot be set for its trials alone."""
OF_THE_SEARCH = ("sweep", "n_trials")
"""Keys that a single run of the best values does not need."""


@dataclass(frozen=True)
class Settings:
    """Settings of a search.

    Args:
        n_trials: Trials in total, with those of an earlier search in the folder.
        params: Search space and fixed values by key.
        at_most_one: Keys whose sum must not exceed 1, unless `strategy.allow_overcorrection` is true.
        startup_trials: Trials that are drawn uniformly, before TPE learns from them.
        seed: Seed of the draws.
    """

    n_trials: int
    params: Mapping[str, Any]
    at_most_one: Sequence[str]
    startup_trials: int
    seed: int

    def __post_init__(self) -> None:
        if not (type(self.n_trials) is int and self.n_trials >= 1):
            raise UserError(f"n_trials={self.n_trials}: use a whole number of at least 1")
        if not (type(self.startup_trials) is int and self.startup_trials >= 1):
            raise UserError(f"hydra.sweeper.startup_trials={self.startup_trials}: use a whole number of at least 1")
        if not (type(self.seed) is int and self.seed >= 0):
            raise UserError(f"hydra.sweeper.seed={self.seed}: use a whole number of at least 0")


def run_search(
    settings: Settings,
    config: DictConfig,
    hydra_context: HydraContext,
    task: TaskFunction,
    launcher: Launcher,
    arguments: Sequence[str],
    check: Callable[[list[list[str]]], None],
) -> None:
    """Run the trials of a search and write `search.json`.

    Args:
        settings: Settings of the search.
        config: Configuration of the sweep.
        hydra_context: Hydra's configuration loader and callbacks.
        task: The function to run.
        launcher: Runs the jobs; `ProcessLauncher` runs several at a time.
        arguments: Overrides of the command line.
        check: Raises an error for overrides that cannot be composed.
    """
    check_optuna()
    registry.load(config.metrics)
    if OmegaConf.to_container(config.hydra.sweep)["subdir"] != "${hydra.job.num}":  # type: ignore[call-overload, index]
        raise UserError("hydra.sweep.subdir: a search names the folders of its trials itself; leave it out")
    space, direction = _space(settings, config, arguments), _direction(config)
    check(_examples(space))

    # These imports need Optuna.
    from counterpoise.sweep.trial_sampler import Draws
    from counterpoise.sweep.trials import Trials

    with sweep_folder(config) as folder:
        OmegaConf.save(config, folder / "multirun.yaml")
        limited, limit = _limit(settings, config, space)
        first = _configured_values(config, space, limited, limit)
        draws = Draws(limited, limit, settings.startup_trials, settings.seed)
        trials = Trials(folder, space, settings.n_trials, direction, first, draws)
        try:
            if isinstance(launcher, ProcessLauncher):
                total = max(settings.n_trials, trials.taken)
                n_jobs = launcher.limits.n_jobs
                progress = Progress(
                    total, len(trials), space.fixed, space.describe, folder, n_jobs, str(config.monitor)
                )
                program = Program(config, hydra_context, task, Singleton.get_state(), list(sys.argv))
                run_queue(program, trials, launcher.limits, progress, lambda job, outcome: trials.tell(job))
            while trials:  # with another launcher
                job = trials.popleft()
                launcher.launch([list(job.overrides)], initial_job_idx=job.number)
                trials.tell(job)
        finally:
            trials.results(str(config.monitor)).save(folder)


def _space(settings: Settings, config: DictConfig, arguments: Sequence[str]) -> SearchSpace:
    params = without_encoder_lr(settings.params, bool(config.probe))
    own = [each for each in arguments if each.partition("=")[0].lstrip("+") != "n_trials"]
    space = read_space(params, own, lambda key: _configured(config, key))
    given = {each.partition("=")[0].lstrip("+~") for each in own}
    for key in params.keys() - given:
        # The direction and the limit are those of the configuration, which does not have these values.
        if key.partition(".")[0].partition("/")[0] in OF_THE_CONFIGURATION and key not in space.distributions:
            raise UserError(f"hydra.sweeper.params: {key} has a single value: set it on the command line instead")
    return space


def _configured(config: DictConfig, key: str) -> Any:
    """Return the configured value of a key, or the chosen option of a group; None if the key does not exist."""
    if "/" in key or key in config.hydra.runtime.choices:
        return config.hydra.runtime.choices.get(key)
    value = OmegaConf.select(config, key)
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _direction(config: DictConfig) -> str:
    """Return the direction of Optuna in which the monitored score becomes better."""
    monitor, mode = str(config.monitor), str(config.monitor_mode)
    if not monitor.startswith("val/"):
        raise UserError(f"monitor={monitor}: a search needs a score of the validation split, such as val/macro_f1")
    mode = (better_mode(monitor) or "unknown") if mode == "auto" else mode
    if mode not in ("min", "max"):
        raise UserError(f"monitor={monitor}: no such metric. If you log it yourself, set monitor_mode to min or max")
    return {"min": "minimize", "max": "maximize"}[mode]


def _limit(settings: Settings, config: DictConfig, space: SearchSpace) -> tuple[list[str], float]:
    """Return the searched keys whose sum is limited, and the limit that the other keys leave."""
    written = {key.lstrip("+"): key for key in space.distributions}
    limited = [written[key] for key in settings.at_most_one if key in written]
    if not limited or config.strategy.get("allow_overcorrection"):
        return [], 1.0
    set_keys = [key for key in settings.at_most_one if key not in written]
    values = {key: OmegaConf.select(config, key) for key in set_keys}
    for key, value in values.items():
        if not is_number(value):
            raise UserError(f"hydra.sweeper.at_most_one: {key} is no number: leave it out")
    for key in limited:
        distribution = space.distributions[key]
        if type(distribution).__name__ != "FloatDistribution" or distribution.step is not None:  # type: ignore[attr-defined]
            raise UserError(f"{key}: give it an interval of numbers, or leave it out of hydra.sweeper.at_most_one")
    return limited, 1.0 - sum(values.values())


def _configured_values(
    config: DictConfig, space: SearchSpace, limited: Sequence[str], limit: float
) -> dict[str, Any] | None:
    """Return the configured values of the searched keys, the first trial; None if they are outside of the space."""
    values = {}
    for key, distribution in space.distributions.items():
        value = _configured(config, key.lstrip("+"))
        options = getattr(distribution, "choices", None)
        if options is not None:
            value = option_text(value)
        if not (value in options if options is not None else is_number(value) and distribution._contains(value)):
            return None
        values[key] = value
    return values if sum(values[key] for key in limited) <= limit else None


def _examples(space: SearchSpace) -> list[list[str]]:
    """Return overrides of trials that together have all options of the choices."""
    options = {
        key: list(getattr(each, "choices", None) or [each.low])  # type: ignore[attr-defined]
        for key, each in space.distributions.items()
    }
    most = max(map(len, options.values()))
    return [
        space.overrides({key: each[min(row, len(each) - 1)] for key, each in options.items()}) for row in range(most)
    ]


def show_search(folder: Path, search: SearchResults) -> None:
    """Print the best trial and the command that trains its values.

    Args:
        folder: Folder of the sweep.
        search: The search.
    """
    counts = {state: sum(trial.state == state for trial in search.trials) for state in ("finished", "pruned", "failed")}
    listed = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    if not search.finished:
        console.print(f"no trial has finished ({listed or 'none began'})", highlight=False)
        return
    best = search.finished[0]
    console.print(
        f"best of {len(search.trials)} trials ({listed}): trial {best.number}, {search.metric} {best.value:.4f}",
        highlight=False,
        markup=False,
    )
    first = search.trials[0]
    if search.first_is_configured and first.state == "finished" and first is not best:
        console.print(f"trial 0, the values without a search: {first.value:.4f}", highlight=False)
    for key, value in best.values.items():
        console.print(f"  {key} = {value}", highlight=False, markup=False)
    command = [python(), shlex.quote(shown_path(Path(sys.argv[0]).absolute()))]
    command += map(shlex.quote, training_overrides(search, best.values))
    for name, text in {"run": shown_path(folder / str(best.number)), "train": " ".join(command)}.items():
        console.print(Text.assemble((f"{name:<10}", "bold"), encodable(text)), soft_wrap=True, highlight=False)
    console.print("The score of the best of many trials is optimistic: compare its settings with several seeds.")


def training_overrides(search: SearchResults, values: Mapping[str, Any]) -> list[str]:
    """Return the overrides that train a setting alone: without those of the search."""
    fixed = [
        each
        for each in search.fixed
        if (key := each.partition("=")[0].lstrip("+")) not in OF_THE_SEARCH and not key.startswith("hydra")
    ]
    return SearchSpace({}, fixed).overrides(values)
