"""The leaderboard of a sweep: one row per job, collected from the run folders.

A run folder holds `status.json` (state, reason, overrides, seconds) and, once finished, `metrics.json` with the scores
of the split `test`. A folder with other or unreadable content becomes a failed row; it never stops the leaderboard.
"""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from counterpoise.analysis.job_folders import hydra_overrides, jobs_of
from counterpoise.analysis.run_process import has_died
from counterpoise.csv_tables import write_csv
from counterpoise.metrics import registry
from counterpoise.saved_files import read_json

BASELINE = "tf-idf baseline"
"""Name of the linear baseline beside the settings of a sweep and the groups of a comparison."""
BASELINE_PREDICTIONS = "baseline_predictions.parquet"
"""File in a run folder that holds the decisions of the baseline on the test texts."""
INCOMPARABLE = "tested on different texts: scores are not comparable"


def measured_columns() -> list[str]:
    """Return the numeric columns in the order of display: metrics, and seconds without building the cache."""
    return [*(metric.name for metric in registry.columns("leaderboard")), "seconds"]


def columns() -> list[str]:
    """Return all columns of the leaderboard."""
    return ["job", "setting", "seed", "fold", "probe", "state", "reason", "test_set", *measured_columns()]


def write(sweep_dir: str | Path, final: bool = False) -> pd.DataFrame:
    """Write `leaderboard.csv` into the sweep's folder and return its table: the jobs and the linear baseline.

    The file is replaced atomically under a lock, so concurrent jobs leave the latest state.
    """
    sweep_dir = Path(sweep_dir)
    sweep_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(sweep_dir / ".leaderboard.lock"):
        table = with_baselines(collect(sweep_dir, final), sweep_dir)
        write_csv(table, sweep_dir / "leaderboard.csv")
    return table


def collect(sweep_dir: str | Path, final: bool = False) -> pd.DataFrame:
    """Collect one row per job folder, in numerical order.

    Args:
        sweep_dir: Folder of the sweep. A job folder holds `status.json` or `.hydra/overrides.yaml`.
        final: Whether the sweep has ended, so that a job in state "running" has failed.

    Returns:
        A table with the columns `columns()`. setting: the overrides except seed and fold, or "default". probe: whether
        the job is a linear probe. state: "finished", "running", "pruned" or "failed"; reason: why it failed or was
        pruned. test_set: a letter, equal for jobs tested on the same texts and true labels; NaN if unknown.
    """
    sweep_dir = Path(sweep_dir)
    folders = jobs_of(sweep_dir)
    folders.sort(key=lambda f: (not f.name.isdecimal(), int(f.name) if f.name.isdecimal() else 0, f.name))
    table = pd.DataFrame([job(folder, final) for folder in folders], columns=columns())
    test_sets = [
        _test_set_digest(folder) if state == "finished" else None
        for folder, state in zip(folders, table.state, strict=True)
    ]
    letters = {digest: _letter(number) for number, digest in enumerate(dict.fromkeys(filter(None, test_sets)))}
    table["test_set"] = [letters[digest] if digest else float("nan") for digest in test_sets]
    return table.astype(
        {"seed": "Int64", "fold": "Int64", **dict.fromkeys(measured_columns(), "float64"), "probe": bool}
    )


def with_baselines(table: pd.DataFrame, sweep_dir: Path) -> pd.DataFrame:
    """Return the table with a row "baseline" for each different baseline of the finished jobs; usually one.

    Jobs share their baseline unless they differ in data, in its settings, or in the decision rule.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for job, test_set in table.loc[table.state == "finished", ["job", "test_set"]].itertuples(index=False):
        section = read_json(sweep_dir / job / "metrics.json").get("baseline")
        if isinstance(section, dict) and isinstance(scores := section.get("test"), dict):
            if not all(isinstance(value, int | float | None) for value in [*scores.values(), section.get("seconds")]):
                continue
            row = {"job": "baseline", "setting": BASELINE, "probe": False, "state": "finished", "test_set": test_set}
            measured = {name: _float(scores.get(name)) for name in measured_columns() if name in table}
            seconds = {"seconds": _float(section.get("seconds"))}
            found.setdefault((test_set, *scores.items()), row | measured | seconds)
    if not found:
        return table
    rows = pd.DataFrame(list(found.values()), columns=table.columns).astype(table.dtypes)
    # Metrics that duplicate another one of the jobs are left out of their rows.
    rows[[name for name in measured_columns() if table[name].isna().all()]] = float("nan")
    return pd.concat([table, rows], ignore_index=True)


def job(folder: Path, final: bool = False) -> dict[str, Any]:
    """Return the row of one job; an unreadable file becomes the reason of a failure."""
    row = {"job": folder.name, "probe": False, "state": "failed", **_setting(hydra_overrides(folder))}
    reading = "status.json"
    try:
        if not (folder / reading).is_file():
            return row | {"reason": "ended without a result"}
        status = read_json(folder / reading)
        # The first job of a sweep builds the cache for all others: its strategy must not pay for that.
        seconds = _float(status.get("seconds")) - (status.get("cache_seconds") or 0.0)
        row |= _setting(status["overrides"]) | {"seconds": round(seconds, 1)}
        if status["state"] == "running" and (final or has_died(status.get("process"))):
            return row | {"reason": "ended without a result (killed?)"}
        if status["state"] == "running":
            return row | {"state": "running"}
        if status["state"] != "finished":
            state = "pruned" if status["state"] == "pruned" else "failed"
            return row | {"state": state, "reason": str(status.get("reason") or "no reason given")}
        reading = "metrics.json"
        metrics = read_json(folder / reading)
        test, row["probe"] = metrics["test"], bool(metrics.get("probe"))
        # Single-label micro F1 is the accuracy: a metric that duplicates another one of the job is left out.
        duplicates = {m.name for task in registry.TASKS for m in registry.select(task) if m.same_as in test}
        shown = [metric.name for metric in registry.columns("leaderboard") if metric.name not in duplicates]
        return row | {name: _float(test.get(name)) for name in shown} | {"state": "finished"}
    except Exception:
        return row | {"reason": f"unreadable {reading}"}


def split_shared_overrides(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the table without the overrides that all jobs share, and these overrides."""
    jobs = table.setting[table.setting != BASELINE]
    settings = [setting.split(" ") for setting in jobs]
    if jobs.nunique() < 2:
        return table, []
    shared = [part for part in settings[0] if all(part in setting for setting in settings)]
    rest = [" ".join(part for part in setting if part not in shared) or "default" for setting in settings]
    return table.assign(setting=pd.Series(rest, jobs.index, dtype=object).reindex(table.index).fillna(BASELINE)), shared


def have_different_test_sets(table: pd.DataFrame) -> bool:
    """Return whether finished jobs were tested on different texts, so that their scores are not comparable."""
    return table.test_set.nunique() > 1


def rank(table: pd.DataFrame) -> pd.DataFrame:
    """Sort by state (finished, running, pruned, failed), then test set, then macro F1, best first."""
    state = table.state.map({"finished": 0, "running": 1, "pruned": 2, "failed": 3})
    keys = table.assign(rank=state, texts=table.test_set if have_different_test_sets(table) else 0)
    keys = keys.sort_values(["rank", "texts", "macro_f1"], ascending=[True, True, False], kind="stable")
    return keys.drop(columns=["rank", "texts"])


def _setting(overrides: list[str]) -> dict[str, Any]:
    """Split overrides into setting, seed and fold."""
    numbers: dict[str, int | None] = {"seed": None, "loader.fold": None}
    others = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+") in numbers and value.isdecimal():
            numbers[key.lstrip("+")] = int(value)
        else:
            others.append(override)
    return {"setting": " ".join(others) or "default", "seed": numbers["seed"], "fold": numbers["loader.fold"]}


def _letter(number: int) -> str:
    """Return A, B, ... Z, AA, AB, ... for 0, 1, ..."""
    return (_letter(number // 26 - 1) if number > 25 else "") + chr(ord("A") + number % 26)


def _test_set_digest(folder: Path) -> str | None:
    """Return a digest of the ids and true labels of the test texts; None if they cannot be read."""
    path = folder / "predictions.parquet"
    try:
        return _digest(path, path.stat().st_mtime_ns)
    except (OSError, LookupError, pa.ArrowException):
        return None


@lru_cache(maxsize=4096)
def _digest(path: Path, modified: int) -> str:
    truth = "labels" if "labels" in pq.read_schema(path).names else "label"
    digest = hashlib.blake2b()
    for column in pq.read_table(path, columns=["id", truth]).columns:
        for chunk in column.chunks:
            digest.update("\n".join(map(repr, chunk.to_pylist())).encode() + b"\n")
    return digest.hexdigest()


def _float(value: float | None) -> float:
    return float("nan") if value is None else float(value)
