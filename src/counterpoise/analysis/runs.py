"""Load finished runs from their folders: settings, true labels and decisions on the test texts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import sparse

from counterpoise.analysis import leaderboard
from counterpoise.analysis.job_folders import check_finished, is_job
from counterpoise.analysis.leaderboard import BASELINE, BASELINE_PREDICTIONS
from counterpoise.csv_tables import read_csv
from counterpoise.errors import UserError
from counterpoise.metrics import registry
from counterpoise.metrics.buckets import Bounds
from counterpoise.saved_files import read_json, read_yaml, reading


@dataclass(frozen=True)
class Run:
    """One finished run on N test texts with C classes or labels.

    Args:
        folder: Folder of the run.
        group: Name of the group: the runs that differ from this one in their seed only.
        settings: Overrides except the seed, sorted.
        seed: Seed of the run, if known.
        multi_label: Whether a text can have several labels.
        labels: Names of the classes.
        counts: Training texts of each class, int [C].
        ids: Ids of the test texts.
        truth: True labels, csr bool [N, C].
        decided: Decisions, csr bool [N, C].
        bounds: Bounds of the buckets.
        seconds: Duration of the run without building the cache.
        epochs: Number of epochs.
        steps: Number of optimizer steps.
        probe: Whether the run is a linear probe.
        first_stage: The configuration without the seed and the second stage, as JSON. Runs that share it and the seed
            start their second stages from the same checkpoint. Empty if unknown.
        further: Test scores of metrics that are not functions of class counts: those of a fork (config key `metrics`)
            and registered ones that are shown in comparisons.
        data_warnings: Data warnings that the run printed.
        baseline: Whether this is the linear baseline of runs.
        precision: Precision of the training, such as "bf16-mixed"; empty if unknown.
        fold: Fold that is the validation split; None without folds.
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
    first_stage: str
    further: dict[str, float]
    data_warnings: tuple[str, ...] = ()
    baseline: bool = False
    precision: str = ""
    fold: int | None = None


def load_runs(arguments: Sequence[str | Path]) -> tuple[list[Run], list[str]]:
    """Load the finished runs of sweeps and run folders.

    Args:
        arguments: Sweep folders, run folders and "NAME=FOLDER". A named folder may be a sweep over seeds. Runs without
            a name are grouped by their overrides except seed and fold, in any order. A repeated folder counts once.

    Returns:
        The runs, followed by their linear baselines, and a warning for each sweep with unfinished jobs.

    Raises:
        UserError: A folder is not a finished run; the runs differ in test texts, true labels or classes; or a given
            name equals the name of another setting.
    """
    named: dict[Path, str] = {}
    jobs: dict[Path, dict[str, Any]] = {}
    warnings: list[str] = []
    for argument in map(str, arguments):
        name, folder = "", Path(argument)
        if not folder.exists() and "=" in argument:
            name, _, rest = argument.partition("=")
            folder = Path(rest)
        rows, missing = finished_jobs(folder)
        if name and len({_override_parts(row) for row in rows.values()}) > 1:
            raise UserError(f"{folder} is a sweep of several settings and cannot have one name. Name its runs instead.")
        jobs |= rows
        named |= {path: name for path in rows if name or path not in named}
        warnings += missing
    names = _group_names([row for path, row in jobs.items() if not named[path]])
    _check_group_names(names, named, jobs)
    if BASELINE in named.values():
        raise UserError(f"{BASELINE} is the name of the linear baseline of the runs. Choose another name.")
    runs = [_read(path, row, named[path] or names[_override_parts(row)]) for path, row in jobs.items()]
    for other in runs[1:]:
        _check_comparable(runs[0], other)
    runs = [replace(run, truth=runs[0].truth, ids=runs[0].ids) for run in runs]
    return [*runs, *_baselines(runs)], warnings


def finished_jobs(folder: Path) -> tuple[dict[Path, dict[str, Any]], list[str]]:
    """Return the finished jobs of a run or a sweep by folder, and a warning about the other jobs of the sweep."""
    if is_job(folder):
        check_finished(folder)
        row = leaderboard.job(folder)
        if row["state"] != "finished":
            raise UserError(f"{folder} is not a finished run: {_state_text(row)}")
        return {folder.resolve(): row}, []
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist. Pass the folder of a run or a sweep, or NAME=FOLDER.")
    rows: dict[Path, dict[str, Any]] = {
        folder / str(row["job"]): {str(key): value for key, value in row.items()}
        for row in leaderboard.collect(folder).to_dict("records")
    }
    done = {path.resolve(): row for path, row in rows.items() if row["state"] == "finished"}
    if rows and not done:
        path, row = next(iter(rows.items()))
        raise UserError(
            f"{folder} holds no finished run; job {path.name}: {_state_text(row)}. Repeat the command of the sweep "
            f"with hydra.sweep.dir={folder}"
        )
    if not done:
        raise UserError(
            f"{folder} holds no finished run. Pass the folder of a run (it holds status.json) or of a sweep."
        )
    unfinished = [
        f"{path.name} ({row['setting']}: {_state_text(row)})"
        for path, row in rows.items()
        if path.resolve() not in done and row["state"] != "pruned"  # which a search does to most trials
    ]
    return done, [f"Not included from {folder}: {'; '.join(unfinished)}."] if unfinished else []


def _state_text(row: dict[str, Any]) -> str:
    if row["state"] in ("failed", "pruned"):
        return f"{row['state']}, {' '.join(row['reason'].split())}"
    return "did not finish"


def _override_parts(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(row["setting"].split(" ")))


def _group_names(rows: list[dict[str, Any]]) -> dict[tuple[str, ...], str]:
    """Return a name for each setting: the overrides that distinguish it, the strategy first and without its key."""
    parts = list(dict.fromkeys(map(_override_parts, rows)))
    table, _ = leaderboard.split_shared_overrides(pd.DataFrame({"setting": list(map(" ".join, parts))}, dtype=object))
    shown = {setting: rest.split(" ") for setting, rest in zip(parts, table["setting"], strict=True)}
    if len(parts) == 1:  # a single setting is named by its strategy
        strategies = [part for part in parts[0] if part.startswith("strategy=")]
        shown = {parts[0]: strategies or list(parts[0])}
    first = {
        setting: sorted(rest, key=lambda part: not part.startswith("strategy=")) for setting, rest in shown.items()
    }
    return {setting: " ".join(part.removeprefix("strategy=") for part in rest) for setting, rest in first.items()}


def _check_group_names(
    names: dict[tuple[str, ...], str], named: dict[Path, str], jobs: dict[Path, dict[str, Any]]
) -> None:
    """Raise UserError if a given name equals the derived name of another setting."""
    for path in (path for path, given in named.items() if not given):
        name = names[_override_parts(jobs[path])]
        alike = {
            other: _override_parts(jobs[other]) == _override_parts(jobs[path])
            for other, given in named.items()
            if given == name
        }
        if alike and not any(alike.values()):
            raise UserError(
                f"{name} names {next(iter(alike))}, but {path} with other settings would get the same name. "
                f"Name that one too: {name}2={path}"
            )


def _read(folder: Path, row: dict[str, Any], group: str) -> Run:
    for name in ("metrics.json", "per_class.csv", "predictions.parquet"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a finished run: {name} is missing")
    with reading(folder):
        metrics = read_json(folder / "metrics.json")
        classes = read_csv(folder / "per_class.csv", "class", ["class", "train_count"])
        columns = pq.read_schema(folder / "predictions.parquet").names
        multi_label = "labels" in columns
        truth, decided = ("labels", "predictions") if multi_label else ("label", "prediction")
        predictions = pq.read_table(folder / "predictions.parquet", columns=["id", truth, decided])
        config = folder / "config.yaml"
        settings = read_yaml(config) if config.is_file() else {}
        labels = classes["class"].tolist()
        cells = [
            _indicator_matrix(predictions[column], labels, f"{folder}: predictions.parquet, {column}")
            for column in (truth, decided)
        ]
        limits = {key: value for key, value in (settings.get("buckets") or {}).items() if key in Bounds._fields}
        for key, value in {"seed": settings.get("seed", 0), **limits}.items():
            if type(value) is not int:
                raise ValueError(f"{key} of config.yaml is {value!r}, not a whole number")
        return Run(
            folder=folder,
            group=group,
            settings=_override_parts(row),
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
            first_stage=_first_stage(settings),
            further=_further_scores(metrics, settings, "multi_label" if multi_label else "single_label"),
            data_warnings=tuple(map(str, metrics.get("data_warnings", ()))),
            precision=str(metrics.get("precision", "")),
            fold=_fold(settings.get("loader")),
        )


def _baselines(runs: Sequence[Run]) -> list[Run]:
    """Return the different baselines of the runs, each as a group of one run; those of folds as one group.

    A baseline is deterministic: runs share it unless they differ in its settings, the fold or the decision rule.
    """
    found: list[tuple[Run, Run]] = []
    for run in runs:
        path = run.folder / BASELINE_PREDICTIONS
        if not path.is_file():
            continue
        with reading(path):
            section = read_json(run.folder / "metrics.json")["baseline"]
            column = "predictions" if run.multi_label else "prediction"
            table = pq.read_table(path, columns=["id", column])
            seconds, scores = float(section["seconds"]), section["test"]
        if not table["id"].equals(run.ids):
            raise UserError(f"{path} and predictions.parquet have different ids")
        decided = _indicator_matrix(table[column], run.labels, f"{path}: {column}")
        if all((decided != other.decided).nnz for _, other in found):
            baseline = replace(
                run,
                group=BASELINE,
                settings=(),
                seed=None,
                decided=decided,
                seconds=seconds,
                epochs=np.nan,
                steps=np.nan,
                probe=False,
                first_stage="",
                further={name: float(scores[name]) for name in run.further if name in scores},
                baseline=True,
                precision="",
            )
            found.append((run, baseline))
    if len({run.fold for run, _ in found}) == len(found):
        return [baseline for _, baseline in found]
    return [replace(baseline, group=f"{BASELINE} of {run.group}, seed {run.seed}") for run, baseline in found]


def _fold(loader: Any) -> int | None:
    """Return the fold that the settings of a run's loader name; None without folds."""
    return loader.get("fold") if isinstance(loader, Mapping) and loader.get("folds") is not None else None


def _first_stage(config: Mapping[str, Any]) -> str:
    """Return the configuration without the seed and the second stage as JSON; empty if there is none."""
    strategy = config.get("strategy")
    if not isinstance(strategy, Mapping):
        return ""
    kept = {key: value for key, value in config.items() if key != "seed"}
    kept["strategy"] = {key: value for key, value in strategy.items() if key != "second_stage"}
    return json.dumps(kept, sort_keys=True, default=str)


def _further_scores(metrics: Mapping[str, Any], config: Mapping[str, Any], task: registry.Task) -> dict[str, float]:
    """Return the test scores of metrics that are not functions of class counts, by name."""
    registered = [metric.name for metric in registry.select(task, "comparison") if metric.resampling is None]
    own = [str(path).rpartition(".")[2] for path in config.get("metrics") or ()]
    scores = metrics.get("test", {})
    return {name: float(scores[name]) for name in dict.fromkeys([*registered, *own]) if name in scores}


def _indicator_matrix(column: pa.ChunkedArray, labels: list[str], where: str) -> sparse.csr_matrix:
    """Return label names, one or a list for each of N texts, as csr bool [N, C]."""
    if column.null_count:
        raise UserError(f"{where}: {column.null_count} values are missing")
    lists = pa.types.is_list(column.type)
    lengths = pc.list_value_length(column).to_numpy() if lists else np.ones(len(column), np.int64)
    numbers = pc.index_in(pc.list_flatten(column) if lists else column, pa.array(labels, pa.string()))
    if numbers.null_count:
        raise UserError(f"{where}: contains a label that per_class.csv lacks")
    starts = np.concatenate([[0], np.cumsum(lengths)])
    indices = np.array(numbers.to_numpy())  # a copy, to be sorted in place
    cells = sparse.csr_matrix((np.ones(len(indices), bool), indices, starts), (len(column), len(labels)))
    cells.sort_indices()
    return cells


def _check_comparable(one: Run, other: Run) -> None:
    """Raise UserError unless both runs have the same task, classes, test texts and true labels."""
    difference = ""
    if one.multi_label != other.multi_label:
        tasks = ["multi-label" if run.multi_label else "single-label" for run in (one, other)]
        difference = f"task: {tasks[0]} and {tasks[1]}"
    elif one.labels != other.labels:
        unshared = sorted(set(one.labels) ^ set(other.labels))
        difference = f"classes: {len(one.labels):,} and {len(other.labels):,}"
        difference += f"; only one has '{unshared[0]}'" if unshared else ", in different order"
    elif len(one.ids) != len(other.ids):
        difference = f"number of test texts: {len(one.ids):,} and {len(other.ids):,}"
    elif not one.ids.equals(other.ids):
        difference = "ids of the test texts"
    elif rows := np.unique((one.truth != other.truth).nonzero()[0]).tolist():
        difference = f"true labels of {len(rows):,} test texts, the first with id '{one.ids[rows[0]]}'"
    if difference:
        raise UserError(
            f"{one.folder} and {other.folder} cannot be compared; they differ in {difference}. "
            "Compare runs on the same data and the same splits."
        )
