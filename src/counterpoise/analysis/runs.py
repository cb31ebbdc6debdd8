"""Finished runs as their folders hold them: what they decided on the test texts, and what they were started with."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from scipy import sparse

from counterpoise.analysis import leaderboard
from counterpoise.errors import UserError
from counterpoise.metrics.buckets import Bounds


@dataclass(frozen=True)
class Run:
    """One finished run of N test texts and C classes.

    group: the name of the runs that differ from this one in their seed. settings: overrides but for the seed, sorted.
    counts: training texts of each class, int [C]. ids: of the test texts. truth, decided: csr bool [N, C], one-hot
    where a text has one class.
    """

    folder: Path
    group: str
    settings: tuple[str, ...]
    seed: int | None
    multi_label: bool
    labels: list[str]
    counts: np.ndarray
    ids: pa.ChunkedArray
    truth: sparse.csr_matrix
    decided: sparse.csr_matrix
    bounds: Bounds
    seconds: float
    epochs: float
    steps: float
    probe: bool


def gather(arguments: Sequence[str | Path]) -> tuple[list[Run], list[str]]:
    """Returns the runs of sweep folders, run folders and "NAME=RUN", and a sentence for each sweep that lacks some.

    Runs without a name are grouped by their overrides but for the seed, in any order. Of a name, RUN may be a sweep
    over seeds. A folder that is named twice is one run. Raises UserError for what is no finished run, for runs that do
    not share test texts, true labels and classes, and where runs of other settings would get a name that was given.
    """
    named: dict[Path, str] = {}
    jobs: dict[Path, dict[str, Any]] = {}
    notes: list[str] = []
    for argument in map(str, arguments):
        name, folder = "", Path(argument)
        if not folder.exists() and "=" in argument:
            name, _, rest = argument.partition("=")
            folder = Path(rest)
        rows, missing = _jobs(folder)
        if name and len({_parts(row) for row in rows.values()}) > 1:
            raise UserError(f"{folder} is a sweep of several settings: give it without a name, or name its runs")
        jobs |= rows
        named |= {path: name for path in rows if name or path not in named}
        notes += missing
    names = _names([row for path, row in jobs.items() if not named[path]])
    _check_names(names, named, jobs)
    runs = [_read(path, row, named[path] or names[_parts(row)]) for path, row in jobs.items()]
    for other in runs[1:]:
        _check_alike(runs[0], other)
    return [replace(run, truth=runs[0].truth, ids=runs[0].ids) for run in runs], notes


def data_warnings(groups: Mapping[str, Sequence[Run]], first: Run) -> list[str]:
    """Returns what the user should know of runs before believing numbers. first: whose counts and bounds are used."""
    words = []
    for name, runs in groups.items():
        repeated = [seed for seed, times in Counter(run.seed for run in runs).items() if times > 1 and seed is not None]
        if repeated:
            seeds = ", ".join(map(str, repeated))
            words.append(f"Several runs of {name} have seed {seeds}: they count as seeds of their own.")
        if len(settings := dict.fromkeys(" ".join(run.settings) for run in runs)) > 1:
            words.append(f"The runs of {name} differ in more than their seed: {'; '.join(settings)}.")
    everyone = [run for runs in groups.values() for run in runs]
    if any((run.counts != first.counts).any() for run in everyone):
        buckets = "training counts, and with them head, medium and tail, are those of"
        words.append(f"The runs were trained on different texts: {buckets} {first.folder}.")
    if any(run.bounds != first.bounds for run in everyone):
        words.append(f"The runs have different bounds of head, medium and tail: those of {first.folder} are used.")
    return words


def _jobs(folder: Path) -> tuple[dict[Path, dict[str, Any]], list[str]]:
    """Returns the finished jobs of a run or a sweep, by folder, and what is to be said of the others of the sweep."""
    if leaderboard.is_job(folder):
        row = leaderboard.job(folder)
        if row["state"] != "finished":
            raise UserError(f"{folder} is no finished run: {_state(row)}")
        return {folder.resolve(): row}, []
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give the folder of a run or a sweep, or NAME=FOLDER")
    rows: dict[Path, dict[str, Any]] = {
        folder / str(row["job"]): {str(key): value for key, value in row.items()}
        for row in leaderboard.collect(folder).to_dict("records")
    }
    done = {path.resolve(): row for path, row in rows.items() if row["state"] == "finished"}
    if not done:
        raise UserError(
            f"{folder} holds no finished run: give the folder of a run (with its status.json) or of a sweep"
        )
    left = [
        f"{path.name} ({row['setting']}: {_state(row)})" for path, row in rows.items() if path.resolve() not in done
    ]
    return done, [f"Left out of {folder}: {'; '.join(left)}."] if left else []


def _state(row: dict[str, Any]) -> str:
    return f"failed, {' '.join(row['reason'].split())}" if row["state"] == "failed" else "did not finish"


def _parts(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(row["setting"].split(" ")))


def _names(rows: list[dict[str, Any]]) -> dict[tuple[str, ...], str]:
    """Returns a name for each setting: what distinguishes it from the others, of the strategy its value alone."""
    parts = list(dict.fromkeys(map(_parts, rows)))
    table, _ = leaderboard.without_shared(pd.DataFrame({"setting": list(map(" ".join, parts))}, dtype=object))
    shown = {setting: rest.split(" ") for setting, rest in zip(parts, table["setting"], strict=True)}
    if len(parts) == 1:  # nothing distinguishes it: the strategy says most
        strategies = [part for part in parts[0] if part.startswith("strategy=")]
        shown = {parts[0]: strategies or list(parts[0])}
    first = {
        setting: sorted(rest, key=lambda part: not part.startswith("strategy=")) for setting, rest in shown.items()
    }
    return {setting: " ".join(part.removeprefix("strategy=") for part in rest) for setting, rest in first.items()}


def _check_names(names: dict[tuple[str, ...], str], named: dict[Path, str], jobs: dict[Path, dict[str, Any]]) -> None:
    """Raises UserError where runs without a name would be called what runs of other settings are called."""
    for path in (path for path, given in named.items() if not given):
        name = names[_parts(jobs[path])]
        alike = {other: _parts(jobs[other]) == _parts(jobs[path]) for other, given in named.items() if given == name}
        if alike and not any(alike.values()):
            raise UserError(
                f"{name} is the name given to {next(iter(alike))}, and would be that of {path}, which has other "
                f"settings: give that one a name too, as in {name}2={path}"
            )


def _read(folder: Path, row: dict[str, Any], group: str) -> Run:
    for name in ("metrics.json", "per_class.csv", "predictions.parquet"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is no finished run: it has no {name}")
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        classes = pd.read_csv(
            folder / "per_class.csv", usecols=["class", "train_count"], dtype={"class": str}, na_filter=False
        )
        columns = pq.read_schema(folder / "predictions.parquet").names
        multi_label = "labels" in columns
        truth, decided = ("labels", "predictions") if multi_label else ("label", "prediction")
        predictions = pq.read_table(folder / "predictions.parquet", columns=["id", truth, decided])
        config = folder / "config.yaml"
        settings = yaml.load(config.read_text(encoding="utf-8"), yaml.CSafeLoader) if config.is_file() else {}
    except (OSError, ValueError, yaml.YAMLError, pa.ArrowException) as error:
        raise UserError(f"{folder} cannot be read: {' '.join(str(error).split())}") from error
    labels = classes["class"].tolist()
    cells = [
        _cells(predictions[column], labels, f"{folder}: predictions.parquet, {column}") for column in (truth, decided)
    ]
    limits = {key: value for key, value in (settings.get("buckets") or {}).items() if key in Bounds._fields}
    return Run(
        folder=folder,
        group=group,
        settings=_parts(row),
        seed=row["seed"] if not pd.isna(row["seed"]) else settings.get("seed"),
        multi_label=multi_label,
        labels=labels,
        counts=classes["train_count"].to_numpy(np.int64),
        ids=predictions["id"],
        truth=cells[0],
        decided=cells[1],
        bounds=Bounds(**limits),
        seconds=row["seconds"],
        epochs=metrics["epochs"],
        steps=metrics["steps"],
        probe=bool(metrics.get("probe", False)),
    )


def _cells(column: pa.ChunkedArray, labels: list[str], where: str) -> sparse.csr_matrix:
    """Returns names, one or a list of them for each of N texts, as csr bool [N, C]."""
    if column.null_count:
        raise UserError(f"{where}: {column.null_count} texts have none")
    lists = pa.types.is_list(column.type)
    lengths = pc.list_value_length(column).to_numpy() if lists else np.ones(len(column), np.int64)
    numbers = pc.index_in(pc.list_flatten(column) if lists else column, pa.array(labels, pa.string()))
    if numbers.null_count:
        raise UserError(f"{where}: holds a name that per_class.csv lacks")
    starts = np.concatenate([[0], np.cumsum(lengths)])
    indices = np.array(numbers.to_numpy())  # a copy, to be sorted in place
    cells = sparse.csr_matrix((np.ones(len(indices), bool), indices, starts), (len(column), len(labels)))
    cells.sort_indices()
    return cells


def _check_alike(one: Run, other: Run) -> None:
    """Raises UserError when runs do not answer the same question about the same texts."""
    differs = ""
    if one.multi_label != other.multi_label:
        kinds = ["any number of labels" if run.multi_label else "one class" for run in (one, other)]
        differs = f"a text has {kinds[0]} in one, {kinds[1]} in the other"
    elif one.labels != other.labels:
        lacking = sorted(set(one.labels) ^ set(other.labels))
        differs = f"their classes: {len(one.labels):,} and {len(other.labels):,}"
        differs += f", '{lacking[0]}' is in one alone" if lacking else ", in another order"
    elif len(one.ids) != len(other.ids):
        differs = f"their test texts: {len(one.ids):,} and {len(other.ids):,}"
    elif not one.ids.equals(other.ids):
        differs = "their test texts, by the ids"
    elif rows := np.unique((one.truth != other.truth).nonzero()[0]).tolist():
        differs = f"the true labels of {len(rows):,} test texts, first of '{one.ids[rows[0]]}'"
    if differs:
        raise UserError(
            f"{one.folder} and {other.folder} differ in {differs}: compare runs on the same data and the same splits"
            if not differs.startswith("a text")
            else f"{one.folder} and {other.folder} do not compare: {differs}"
        )
