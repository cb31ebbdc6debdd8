"""The trials of `sweep=optuna` as a queue of jobs. They are kept in an Optuna study, in the folder of the sweep."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import FrozenTrial, TrialState

from counterpoise.analysis.job_folders import Job, is_job, overrides_of, read_status
from counterpoise.analysis.search_results import SearchResults, Trial
from counterpoise.errors import UserError
from counterpoise.saved_files import reading
from counterpoise.sweep.search_space import SearchSpace
from counterpoise.sweep.trial_sampler import Draws, TrialSampler
from counterpoise.sweep.trial_storage import DATABASE, STUDY, open_storage

STATES = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
"""State of a trial by the state of its job."""


class Trials:
    """The trials that are left to do, as a queue: the values of a trial are chosen when it is taken.

    A trial that an interrupted sweep left is done again, in its folder and with its values. It has failed if its values
    were not complete.

    Args:
        folder: Folder of the sweep, which exists. A search that was begun there is continued.
        space: The search space.
        number: Trials in total, with those that were done earlier.
        direction: "maximize" or "minimize".
        first: Values of the first trial; None to choose them as those of the others.
        draws: How the values of the other trials are drawn.

    Raises:
        UserError: The folder has a search of other settings, or other jobs.
    """

    def __init__(
        self,
        folder: Path,
        space: SearchSpace,
        number: int,
        direction: str,
        first: Mapping[str, Any] | None,
        draws: Draws,
    ) -> None:
        self.folder, self.space, self.number, self._draws = folder, space, number, draws
        # The sampler draws limited values one after another on purpose, of which Optuna warns.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with reading(folder / DATABASE):
            self.study = optuna.create_study(
                storage=open_storage(folder),
                study_name=STUDY,
                direction=direction,  # type: ignore[arg-type]
                load_if_exists=True,
            )
            known = self.study.user_attrs
            earlier = self.study.get_trials(deepcopy=False)
        settings = {
            "fixed": sorted(space.fixed),
            "space": _as_text(space.distributions),
            "direction": direction,
            "limit": [f"{' + '.join(draws.limited)} <= {draws.limit:g}"],
            "draws": [f"startup_trials={draws.startup_trials}", f"seed={draws.seed}"],
        }
        for name, value in settings.items():
            if known.get(name, value) != value:
                raise UserError(
                    f"{folder} has a search with other settings ({_difference(known[name], value)}). Repeat its "
                    "command, or set another hydra.sweep.dir"
                )
            self.study.set_user_attr(name, value)
        if not earlier and first is not None:
            self.study.enqueue_trial(dict(first))
            self.study.set_user_attr("first_is_configured", True)
        self.again = [trial for trial in earlier if trial.state == TrialState.RUNNING and not self._ended(trial)]
        self.taken = sum(trial.state != TrialState.WAITING for trial in earlier)

    def _ended(self, trial: FrozenTrial) -> bool:
        """Record a trial whose job ended just before the sweep was interrupted; return whether it had."""
        if set(trial.params) != set(self.space.distributions):  # interrupted while the values were chosen
            self.study.tell(trial.number, state=TrialState.FAIL)
            return True
        job = self.job(trial.number, trial.params)
        ended = job.folder is not None and read_status(job.folder).get("state") in ("finished", "pruned")
        if ended:
            self.tell(job)
        return ended

    def __len__(self) -> int:
        return len(self.again) + max(0, self.number - self.taken)

    def popleft(self) -> Job:
        """Return the next job."""
        if self.again:
            trial = self.again.pop(0)
            return self.job(trial.number, trial.params)
        self.study.sampler = TrialSampler(self.space.distributions, self._draws, self.taken)
        self.taken += 1
        asked = self.study.ask(dict(self.space.distributions))
        return self.job(asked.number, asked.params)

    def job(self, number: int, values: Mapping[str, Any]) -> Job:
        """Return the job of a trial, with the folder of an earlier attempt. Trials may have equal values."""
        overrides, folder = self.space.overrides(values), self.folder / str(number)
        if not is_job(folder):
            return Job(number, tuple(overrides))
        if sorted(overrides_of(folder)) != sorted(overrides):
            raise UserError(f"{folder} holds a job of another sweep: set another hydra.sweep.dir")
        return Job(number, tuple(overrides), folder)

    def tell(self, job: Job) -> None:
        """Record the end of a job, as its `status.json` states it. A score that is not finite is a failure."""
        status = read_status(self.folder / str(job.number))
        state, value = STATES.get(str(status.get("state")), TrialState.FAIL), status.get("value")
        if state == TrialState.COMPLETE and not (isinstance(value, int | float) and math.isfinite(value)):
            state = TrialState.FAIL
        self.study.tell(job.number, value if state == TrialState.COMPLETE else None, state=state)

    def results(self, metric: str) -> SearchResults:
        """Return all trials and the importance of the parameters.

        Args:
            metric: Name of the score.
        """
        names = {state: name for name, state in STATES.items()} | {TrialState.RUNNING: "running"}
        trials = [
            Trial(trial.number, names[trial.state], trial.value, trial.params)
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state in names
        ]
        space = self.space.distributions
        return SearchResults(
            metric=metric,
            maximize=self.study.direction == optuna.study.StudyDirection.MAXIMIZE,
            first_is_configured=bool(self.study.user_attrs.get("first_is_configured")),
            fixed=list(self.space.fixed),
            logarithmic=[name for name, distribution in space.items() if getattr(distribution, "log", False)],
            importances=self._importances(),
            trials=trials,
        )

    def _importances(self) -> dict[str, float]:
        """Return the share of each parameter in the variance of the scores; empty if there are too few scores."""
        values = {trial.value for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}
        if len(values) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return optuna.importance.get_param_importances(self.study, evaluator=evaluator)


def _as_text(space: Mapping[str, BaseDistribution]) -> list[str]:
    return sorted(f"{name}: {distribution_to_json(distribution)}" for name, distribution in space.items())


def _difference(earlier: Any, now: Any) -> str:
    """Return what only one of two settings has."""
    if isinstance(earlier, str):
        return f"{earlier}, now {now}"
    gone, new = [item for item in earlier if item not in now], [item for item in now if item not in earlier]
    return "; ".join([*(f"then {item}" for item in gone), *(f"now {item}" for item in new)])
