"""Run `sweep=auto`: train within the budget, then combine the runs, test and export the model."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from counterpoise.analysis.job_folders import find_folders
from counterpoise.errors import UserError
from counterpoise.sweep.auto import Search, search
from counterpoise.terminal import console


def run_search(
    settings: Search,
    config: DictConfig,
    launcher: Launcher,
    arguments: Sequence[str],
    check: Callable[[list[list[str]]], None],
) -> None:
    """Train candidates within the budget, combine the runs, test and export the model.

    Args:
        settings: Settings of the search.
        config: Configuration of the sweep.
        launcher: Runs a job.
        arguments: Overrides of the command line.
        check: Raises an error for overrides that cannot be composed.
    """
    start = time.monotonic()
    epochs = max(1, config.trainer.max_epochs or 1)  # null and -1: no limit
    settings = replace(settings, candidates=_candidates(arguments, settings.candidates), epochs=epochs)
    check([[*arguments, *each.split()] for each in settings.candidates])
    folder = Path(config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "multirun.yaml")

    def train(overrides: list[str], number: int) -> Path:
        launcher.launch([overrides], initial_job_idx=number)
        return find_folders(folder.absolute(), [overrides], number)[0].folder or folder / str(number)

    runs = search(train, arguments, settings)

    # These imports take seconds, because they import PyTorch; the jobs run in separate processes.
    from counterpoise.commands.ensemble_folder import build_ensemble
    from counterpoise.commands.ensemble_members import finished_runs
    from counterpoise.commands.ensemble_results import show
    from counterpoise.commands.onnx_export import export
    from counterpoise.commands.trusted_classes import allowed_packages

    packages, output = allowed_packages(), folder / "ensemble"
    show(build_ensemble(finished_runs(runs), output, None, packages))
    try:
        export(output, output / "onnx", packages=packages)
    except UserError as error:
        console.print(f"the model is not exported: {error}", markup=False)
    minutes = (time.monotonic() - start) / 60
    console.print(f"sweep=auto took {minutes:.1f} of {settings.budget / 60:.1f} min", highlight=False)
    console.print(f"report:  {output / 'report.html'}", soft_wrap=True, highlight=False, markup=False)
    console.print(
        f"predict: python -m counterpoise.predict {output} FILE", soft_wrap=True, highlight=False, markup=False
    )


def _candidates(arguments: Sequence[str], candidates: Sequence[str]) -> list[str]:
    """Return the candidates that set no key of the command line.

    Raises:
        UserError: An override has several values, sets the seed, or leaves no candidate.
    """
    left = list(candidates)
    for override in OverridesParser.create().parse_overrides(list(arguments)):
        key, line = override.get_key_element().lstrip("+"), override.input_line
        if override.is_sweep_override():
            raise UserError(f"{line}: sweep=auto takes one value of each key; see hydra.sweeper.candidates")
        fitting = [each for each in left if key not in (part.partition("=")[0].lstrip("+") for part in each.split())]
        if key in ("seed", "loader.folds", "loader.fold") or not fitting:
            raise UserError(f"{line}: sweep=auto chooses {key} itself; see hydra.sweeper.candidates")
        for each in left:
            if each not in fitting:
                console.print(f"candidate left out, because of {line}: {each}", highlight=False, markup=False)
        left = fitting
    return left
