"""The Optuna sampler of a search: TPE on the allowed part of the space, with values of three significant digits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial

from counterpoise.errors import UserError


@dataclass(frozen=True)
class Draws:
    """How the values of trials are drawn.

    Args:
        limited: Searched keys whose sum must not exceed `limit`.
        limit: The largest sum.
        startup_trials: Trials that are drawn uniformly.
        seed: Seed of the search.
    """

    limited: Sequence[str]
    limit: float
    startup_trials: int
    seed: int


class TrialSampler(TPESampler):
    """Draws all values of a trial, so that the sum of some of them does not exceed a limit.

    The first trials are drawn uniformly. Later ones are drawn by TPE, jointly for the values without a limit, and one
    after another, each below what the others have left, for those with a limit: rejecting draws above the limit would
    not do, because TPE prefers regions without bad trials. Running trials count as bad ones (constant liar), so that
    parallel trials differ.

    Args:
        space: Distributions of all trials by name.
        draws: How values are drawn.
        taken: Number of trials before this one. An interrupted search continues as it would have without interruption.

    Raises:
        UserError: The lower bounds exceed the limit.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], draws: Draws, taken: int) -> None:
        seed = int(np.random.SeedSequence((draws.seed, taken)).generate_state(1)[0])
        super().__init__(n_startup_trials=draws.startup_trials, seed=seed, multivariate=True, constant_liar=True)
        self._space, self._limit = dict(space), draws.limit
        self._limited: dict[str, FloatDistribution] = {name: space[name] for name in draws.limited}  # type: ignore[misc]
        if sum(distribution.low for distribution in self._limited.values()) > draws.limit:
            raise UserError(
                f"sweep=optuna: {' + '.join(draws.limited)} must not exceed {draws.limit:g} "
                "(hydra.sweeper.at_most_one), and their lower bounds do: lower them"
            )

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space: it is the same for all trials."""
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return values of all names."""
        free = {name: each for name, each in search_space.items() if name not in self._limited}
        drawn = super().sample_relative(study, trial, free)
        values = {}
        for name, distribution in free.items():
            value = drawn[name] if name in drawn else self.sample_independent(study, trial, name, distribution)
            values[name] = _rounded(value, distribution)
        room = self._limit - sum(distribution.low for distribution in self._limited.values())
        for name, distribution in self._limited.items():
            high = min(distribution.high, distribution.low + room)
            values[name] = distribution.low
            if high > distribution.low:
                below = FloatDistribution(distribution.low, high, log=distribution.log)
                values[name] = _rounded(self.sample_independent(study, trial, name, below), below)
            room -= values[name] - distribution.low
        return values


def _rounded(value: Any, distribution: BaseDistribution) -> Any:
    if not isinstance(distribution, FloatDistribution):
        return value
    if distribution.step is not None:
        steps = round((value - distribution.low) / distribution.step)
        return float(f"{distribution.low + steps * distribution.step:.12g}")
    return min(max(float(f"{value:.3g}"), distribution.low), float(f"{distribution.high:.12g}"))
