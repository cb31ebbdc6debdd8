"""Warnings that limit a comparison: what the runs of a group, or the groups, differ in besides their settings."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from counterpoise.analysis.job_folders import ENSEMBLE_FILE
from counterpoise.analysis.runs import Run


def comparison_warnings(groups: Mapping[str, Sequence[Run]], first: Run) -> list[str]:
    """Return warnings that limit a comparison. `first` provides the training counts and bounds."""
    warnings = _warnings_of_the_data(groups)
    for name, runs in groups.items():
        times = Counter((run.seed, run.fold) for run in runs if run.seed is not None)
        repeated = dict.fromkeys(seed for (seed, _), number in times.items() if number > 1)
        if repeated:
            seeds = ", ".join(map(str, repeated))
            warnings.append(f"Several runs of {name} have seed {seeds}. They are treated as different seeds.")
        parts = Counter(part for run in runs for part in _parts(run.folder))
        if repeats := [part for part, times in parts.items() if times > 1]:
            warnings.append(
                f"{repeats[0]} is part of several ensembles of {name}: they are not independent, and their differences "
                "to other groups seem more certain than they are."
            )
        if len(settings := dict.fromkeys(" ".join(run.settings) for run in runs)) > 1:
            warnings.append(f"The runs of {name} differ in more than their seed: {'; '.join(settings)}.")
    everyone = [run for runs in groups.values() for run in runs]
    warnings += _precision_warning(groups)
    if any((run.counts != first.counts).any() for run in everyone):
        warnings.append(
            "The runs have different training counts. Training counts and the buckets head, medium and tail are taken "
            f"from {first.folder}."
        )
    if any(run.bounds != first.bounds for run in everyone):
        warnings.append(f"The runs have different bucket bounds. The bounds are taken from {first.folder}.")
    return warnings


def _parts(folder: Path) -> set[str]:
    """Return the runs that an ensemble consists of; the folder itself for a run."""
    try:
        return set(map(str, json.loads((folder / ENSEMBLE_FILE).read_text(encoding="utf-8"))["runs"]))
    except (OSError, ValueError, LookupError, TypeError):
        return {str(folder)}


def _warnings_of_the_data(groups: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return each data warning of the runs once, with the groups that have it unless all have it."""
    found: dict[str, list[str]] = {}
    for name, runs in groups.items():
        for line in dict.fromkeys(line for run in runs for line in run.data_warnings):
            found.setdefault(line, []).append(name)
    of = {line: "" if len(names) == len(groups) else f" of {', '.join(names)}" for line, names in found.items()}
    return [f"Data{of[line]}: {line.rstrip('.')}." for line in found]


def _precision_warning(groups: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return a warning if the runs were trained in different precisions."""
    found: dict[str, list[str]] = {}
    for name, runs in groups.items():
        for precision in dict.fromkeys(run.precision for run in runs if run.precision):
            found.setdefault(precision, []).append(name)
    if len(found) < 2:
        return []
    listed = "; ".join(f"{precision}: {', '.join(names)}" for precision, names in found.items())
    return [
        f"The runs were trained in different precisions ({listed}). Their times are not comparable, and small "
        "differences of scores may come from it."
    ]
