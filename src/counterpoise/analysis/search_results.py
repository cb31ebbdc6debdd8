"""The trials of `sweep=optuna`, kept in `search.json` of the sweep folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from counterpoise.io import atomic_path
from counterpoise.saved_files import read_json, reading

SEARCH_FILE = "search.json"


@dataclass(frozen=True)
class Trial:
    """One trial of a search.

    Args:
        number: Number of the trial and of its job folder.
        state: "finished", "pruned", "failed" or "running".
        value: Score on the validation split; for a pruned trial its last score. None without a validation.
        values: Values of the searched keys: numbers, or options as texts.
    """

    number: int
    state: str
    value: float | None
    values: Mapping[str, Any]


@dataclass(frozen=True)
class SearchResults:
    """The trials of a search.

    Args:
        metric: Name of the score, such as "val/macro_f1".
        maximize: Whether a higher score is better.
        first_is_configured: Whether the first trial has the configured values of all searched keys.
        fixed: Overrides that all trials share.
        logarithmic: Keys that were drawn on a logarithmic scale.
        importances: Share of each key in the variance of the scores (functional ANOVA); empty if not known.
        trials: All trials by number.
    """

    metric: str
    maximize: bool
    first_is_configured: bool
    fixed: Sequence[str]
    logarithmic: Sequence[str]
    importances: Mapping[str, float]
    trials: Sequence[Trial]

    @property
    def finished(self) -> list[Trial]:
        """The trials with a score, best first."""
        done = [(trial.value, trial) for trial in self.trials if trial.state == "finished" and trial.value is not None]
        sign = -1 if self.maximize else 1
        return [trial for _, trial in sorted(done, key=lambda each: sign * each[0])]

    def save(self, sweep_dir: Path) -> None:
        """Write `search.json`."""
        with atomic_path(sweep_dir / SEARCH_FILE) as path:
            path.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")


def read_search(sweep_dir: Path) -> SearchResults | None:
    """Return the search of a sweep; None if it was none.

    Raises:
        UserError: The file is damaged.
    """
    path = sweep_dir / SEARCH_FILE
    if not path.is_file():
        return None
    content = read_json(path)
    with reading(path):
        return SearchResults(**{**content, "trials": [Trial(**trial) for trial in content["trials"]]})
