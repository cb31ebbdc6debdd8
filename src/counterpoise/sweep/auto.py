"""The best model within a time budget: successive halving of candidates, then one ensemble of all runs."""

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from counterpoise.analysis.job_folders import read_status
from counterpoise.balance.validation import is_number
from counterpoise.errors import UserError, check_whole_number
from counterpoise.saved_files import read_json
from counterpoise.terminal import console

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
UNKNOWN_FACTOR = 1.5
"""An epoch of a candidate that has not been trained yet is expected to take this many times the longest one so far."""
KNOWN_FACTOR = 1.1
"""A candidate that has been trained is expected to take this many times its longest run."""


@dataclass(frozen=True)
class Search:
    """Settings of the search.

    Args:
        budget: Seconds that the whole sweep may take.
        candidates: Overrides of each candidate, separated by spaces.
        max_rounds: Rounds of training at most. A round trains each remaining candidate with a new seed.
        reserve: Fraction of the budget that is kept for the ensemble, its export and the comparison.
        folds: Number of folds of the training data. Each round has another fold as validation split. None: all runs
            have the same validation split.
        epochs: Epochs of a candidate that does not set `trainer.max_epochs`.
    """

    budget: float
    candidates: Sequence[str]
    max_rounds: int = 10
    reserve: float = 0.1
    folds: int | None = None
    epochs: int = 1

    def __post_init__(self) -> None:
        if not self.candidates or not all(isinstance(each, str) and each.split() for each in self.candidates):
            raise UserError(
                "hydra.sweeper.candidates: give a list of texts, each with the overrides of a candidate, such as "
                '["strategy=ldam","strategy=combined dropout=0.2"]'
            )
        check_whole_number("hydra.sweeper.max_rounds", self.max_rounds)
        if not (is_number(self.reserve) and 0 <= self.reserve < 1):
            raise UserError(f"hydra.sweeper.reserve={self.reserve}: use a number of at least 0 and below 1")
        check_whole_number("hydra.sweeper.folds", self.folds, least=2, null=True)

    def epochs_of(self, overrides: Sequence[str]) -> int:
        """Return the epochs of a candidate."""
        given = {key.lstrip("+"): value for key, _, value in (each.partition("=") for each in overrides)}
        epochs = given.get("trainer.max_epochs", "")
        return max(1, int(epochs)) if epochs.isdecimal() else self.epochs

    def of_round(self, number: int) -> list[str]:
        """Return the overrides of a round's runs: seed and fold."""
        fold = [] if self.folds is None else [f"loader.folds={self.folds}", f"loader.fold={number % self.folds}"]
        return [f"seed={number}", *fold]


@dataclass
class Candidate:
    """A candidate and its finished runs.

    Args:
        overrides: What distinguishes it.
        runs: Folders of its finished runs.
        scores: Validation score of each round with a finished run.
        seconds: Duration of each run, failed ones included.
    """

    overrides: list[str]
    runs: list[Path]
    scores: dict[int, float]
    seconds: list[float]

    @property
    def name(self) -> str:
        """The overrides in one string."""
        return " ".join(self.overrides)

    def mean(self, rounds: set[int]) -> float:
        """Return the mean validation score of some rounds; minus infinity if one has no finished run."""
        found = [self.scores.get(number, -math.inf) for number in rounds]
        return sum(found) / len(found) if found else -math.inf


def read_budget(text: object) -> float:
    """Return the seconds of a time such as "30m", "1h30m", "90s" or a number of minutes.

    Raises:
        UserError: It is not a time above 0.
    """
    words = str(text).replace(" ", "")
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", words)
    if parts and "".join(number + unit for number, unit in parts) == words:
        seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    else:
        seconds = 60.0 * float(words) if re.fullmatch(r"\d+(\.\d+)?", words) else 0.0
    if not 0 < seconds < math.inf:
        raise UserError(f"budget={text}: use a time such as 30m, 1h30m or 90s")
    return seconds


def search(
    train: Callable[[list[str], int], Path],
    arguments: Sequence[str],
    settings: Search,
    clock: Callable[[], float] = time.monotonic,
) -> list[Path]:
    """Train candidates by successive halving until the time is over.

    The first round trains every candidate with seed 0. The better half, by the mean validation score, is trained with a
    new seed and on another fold in each further round, until one candidate is left. All candidates of a round have the
    same validation split. A run is only started if it is expected to end in time.

    Args:
        train: Trains a run with overrides and a job number, and returns its folder.
        arguments: Overrides of all runs.
        settings: Settings of the search.
        clock: Returns the time in seconds.

    Returns:
        All finished runs, those of the remaining candidates first.

    Raises:
        UserError: No run finished in the time.
    """
    start = clock()
    deadline = start + settings.budget * (1 - settings.reserve)
    everyone = [Candidate(overrides.split(), [], {}, []) for overrides in settings.candidates]
    remaining = everyone
    longest, number = 0.0, 0
    for seed in range(settings.max_rounds):
        trained = False
        for candidate in remaining:
            known = KNOWN_FACTOR * max(candidate.seconds, default=0.0)
            epochs = settings.epochs_of(candidate.overrides)
            if clock() + (known or UNKNOWN_FACTOR * longest * epochs) > deadline:
                continue
            begun = clock()
            folder = train([*arguments, *candidate.overrides, *settings.of_round(seed)], number)
            number, trained = number + 1, True
            # A run that finished earlier is skipped, and its recorded duration counts.
            candidate.seconds.append(max(clock() - begun, recorded_seconds(folder)))
            longest = max(longest, candidate.seconds[-1] / epochs)
            score = validation_score(folder)
            if score is not None:
                candidate.runs.append(folder)
                candidate.scores[seed] = score
        if not trained:
            break
        # Rounds differ in their validation texts: candidates are compared on those that all of them have finished.
        trained_rounds = [set(each.scores) for each in remaining if each.scores]
        common = set.intersection(*trained_rounds) if trained_rounds else set()
        remaining = sorted(remaining, key=lambda each: -each.mean(common))[: max(1, math.ceil(len(remaining) / 2))]
        if remaining[0].runs:
            means = {each.name: each.mean(common) for each in remaining}
            shown = ", ".join(f"{name} ({mean:.3f})" for name, mean in means.items() if mean > -math.inf)
            left = max(0.0, start + settings.budget - clock())
            console.print(
                f"round {seed + 1}: best on validation: {shown}; {left / 60:.0f} min left",
                highlight=False,
                markup=False,
            )
    dropped = [candidate for candidate in everyone if candidate not in remaining]
    runs = [run for candidate in [*remaining, *dropped] for run in candidate.runs]
    if not runs:
        raise UserError(f"no run finished within {settings.budget / 60:.0f} min: raise the budget")
    return runs


def validation_score(folder: Path) -> float | None:
    """Return the validation macro F1 of a run; None if it did not finish."""
    try:
        score = float(read_json(folder / "metrics.json")["validation"]["macro_f1"])
    except (UserError, ValueError, LookupError, TypeError):
        return None
    return score if read_status(folder).get("state") == "finished" and math.isfinite(score) else None


def recorded_seconds(folder: Path) -> float:
    """Return the duration that a run recorded; 0 if it recorded none."""
    seconds = read_status(folder).get("seconds")
    return float(seconds) if isinstance(seconds, int | float) and math.isfinite(seconds) else 0.0
