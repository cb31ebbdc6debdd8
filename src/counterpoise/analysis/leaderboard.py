"""The leaderboard of a sweep, built from what its run folders hold.

A run folder holds `status.json` (state, reason, overrides, seconds) and, once finished, `metrics.json` with
the scores of the split `test`. Whatever a folder holds instead, the leaderboard is written all the same.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from filelock import FileLock
from rich.console import Console
from rich.table import Table
from rich.text import Text

from counterpoise.analysis import plots
from counterpoise.io import atomic_path

_LOWER_IS_BETTER = ("loss", "seconds")
MEASURED = (
    "macro_f1",
    "micro_f1",
    "macro_recall",
    "micro_recall",
    "map",
    "balanced_accuracy",
    "accuracy",
    "mcc",
    "worst_recall",
    "head_f1",
    "medium_f1",
    "tail_f1",
    "head_recall",
    "medium_recall",
    "tail_recall",
    *_LOWER_IS_BETTER,
)
TWINS = {"micro_f1": "accuracy", "macro_recall": "balanced_accuracy"}
"""The same number under two names where each text has one label: shown once."""
COLUMNS = ("job", "setting", "seed", "probe", "state", "reason", "test_set", *MEASURED)
DIFFERENT = "tested on different texts: scores do not compare"


def collect(sweep_dir: str | Path, final: bool = False) -> pd.DataFrame:
    """Returns one row per job folder with the columns `COLUMNS`, jobs in numerical order.

    job: the name of the folder; setting: its overrides but for the seed, or "default"; probe: whether only a head was
    trained, on the vectors of an encoder that stayed as it was; state: "finished",
    "running" or "failed", the last with a reason; test_set: the same letter for those that were tested on the same
    texts with the same truths, NaN where that is not known. A folder is a job's when it holds `status.json` or
    `.hydra/overrides.yaml`. Failed are also those without a status, those whose files cannot be read and,
    with `final`, those that still say they are running.
    """
    sweep_dir = Path(sweep_dir)
    folders = [f for f in sweep_dir.iterdir() if is_job(f)] if sweep_dir.is_dir() else []
    folders.sort(key=lambda f: (not f.name.isdecimal(), int(f.name) if f.name.isdecimal() else 0, f.name))
    table = pd.DataFrame([job(folder, final) for folder in folders], columns=list(COLUMNS))
    tested = [
        _tested(folder) if state == "finished" else None for folder, state in zip(folders, table.state, strict=True)
    ]
    letters = {digest: _letter(number) for number, digest in enumerate(dict.fromkeys(filter(None, tested)))}
    table["test_set"] = [letters[digest] if digest else float("nan") for digest in tested]
    return table.astype({"seed": "Int64", **dict.fromkeys(MEASURED, "float64"), "probe": bool})


def is_job(folder: Path) -> bool:
    """Returns whether a folder is a job's: it holds `status.json` or what Hydra wrote before the job began."""
    return (folder / "status.json").is_file() or (folder / ".hydra" / "overrides.yaml").is_file()


def job(folder: Path, final: bool = False) -> dict[str, Any]:
    """Returns one job's row of `collect`; what cannot be read becomes the reason of a failure."""
    row = {"job": folder.name, "probe": False, "state": "failed", **_setting(_hydra_overrides(folder))}
    reading = "status.json"
    try:
        if not (folder / reading).is_file():
            return row | {"reason": "ended without a result"}
        status = json.loads((folder / reading).read_text(encoding="utf-8"))
        row |= _setting(status["overrides"]) | {"seconds": _float(status.get("seconds"))}
        if status["state"] == "running" and final:
            return row | {"reason": "ended without a result (killed?)"}
        if status["state"] == "running":
            return row | {"state": "running"}
        if status["state"] != "finished":
            return row | {"reason": str(status.get("reason") or "no reason given")}
        reading = "metrics.json"
        metrics = json.loads((folder / reading).read_text(encoding="utf-8"))
        test, row["probe"] = metrics["test"], bool(metrics.get("probe"))
        shown = [name for name in MEASURED if name != "seconds" and TWINS.get(name) not in test]
        measured = {name: _float(test.get(name)) for name in shown}
        return row | measured | {"state": "finished"}
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return row | {"reason": f"unreadable {reading}"}


def without_shared(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Returns the table with settings that leave out what every job was started with, and that."""
    settings = [setting.split(" ") for setting in table.setting]
    if table.setting.nunique() < 2:
        return table, []
    shared = [part for part in settings[0] if all(part in setting for setting in settings)]
    rest = [" ".join(part for part in setting if part not in shared) or "default" for setting in settings]
    return table.assign(setting=rest), shared


def differ(table: pd.DataFrame) -> bool:
    """Returns whether finished jobs were tested on different texts, so that none is the best."""
    return table.test_set.nunique() > 1


def write(sweep_dir: str | Path, final: bool = False) -> pd.DataFrame:
    """Writes `leaderboard.csv`, `.md` and `.png` into the sweep's folder and returns the table of `collect`.

    Each file is replaced as a whole, and one job at a time writes, so that the last to end has the last word.
    """
    sweep_dir = Path(sweep_dir)
    sweep_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(sweep_dir / ".leaderboard.lock"):
        table = collect(sweep_dir, final)
        with atomic_path(sweep_dir / "leaderboard.csv") as unfinished:
            table.to_csv(unfinished, index=False)
        with atomic_path(sweep_dir / "leaderboard.md") as unfinished:
            unfinished.write_text(_markdown(table), encoding="utf-8")
        remark = DIFFERENT if differ(table) else ""
        plots.leaderboard(sweep_dir / "leaderboard.png", without_shared(table)[0], remark)
    return table


def show(table: pd.DataFrame, console: Console) -> None:
    """Prints the table, best macro F1 first: the best of a column green, a failed job red with its reason.

    A narrow console shows the foremost columns; the files hold all.
    """
    table, shared = without_shared(table)
    columns, best = _fitting(table, console.width), _best(table) if not differ(table) else {}
    said = [*([f"every job: {' '.join(shared)}"] if shared else []), *([DIFFERENT] if differ(table) else [])]
    printed = Table(title=_title(table), caption=Text("\n".join(said)) if said else None, header_style="bold")
    printed.add_column("job", justify="right", no_wrap=True)
    printed.add_column("setting", overflow="fold")
    for column in (*_known(table), *columns):
        printed.add_column(column.replace("_", "\n"), justify="right", no_wrap=True)
    for row in _ranked(table).to_dict("records"):
        failed = row["state"] == "failed"
        setting = Text(row["setting"])
        if row["state"] != "finished":
            setting.append(f"\n{row['reason'] if failed else 'running'}", style="" if failed else "italic")
        cells = [Text(_number(row[c], c), style="bold green" if _is_best(row[c], c, best) else "") for c in columns]
        known = [_cell(row[c]) for c in _known(table)]
        printed.add_row(Text(row["job"]), setting, *known, *cells, style="red" if failed else None)
    console.print(printed)


def _title(table: pd.DataFrame) -> str:
    if not table.probe.any():
        return "Leaderboard"
    all_scouts = table.probe[table.state == "finished"].all()
    return f"Leaderboard of probes{'' if all_scouts else ' and trained runs'} (a probe trains a head alone)"


def grid_row(cells: list[str]) -> str:
    """Returns a row of a Markdown table."""
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def code(text: str) -> str:
    """Returns text as Markdown code on one line, so that nothing in it is taken for markup."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`"


def _hydra_overrides(folder: Path) -> list[str]:
    """Returns the overrides that Hydra wrote down before the job began, none where it did not."""
    try:
        overrides = yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return []
    return [str(override) for override in overrides] if isinstance(overrides, list) else []


def _setting(overrides: list[str]) -> dict[str, Any]:
    """Returns the setting and the seed that a job's overrides name."""
    seed, others = None, []
    for override in overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+") == "seed" and value.isdecimal():
            seed = int(value)
        else:
            others.append(override)
    return {"setting": " ".join(others) or "default", "seed": seed}


def _letter(number: int) -> str:
    """Returns A, B, ... Z, AA, AB, ... for 0, 1, ..."""
    return (_letter(number // 26 - 1) if number > 25 else "") + chr(ord("A") + number % 26)


def _tested(folder: Path) -> str | None:
    """Returns what is the same of jobs that predicted the same texts with the same truths, None where it is unknown."""
    path = folder / "predictions.parquet"
    try:
        return _digest(path, path.stat().st_mtime_ns)
    except (OSError, LookupError, pa.ArrowException):
        return None


@lru_cache(maxsize=4096)
def _digest(path: Path, changed: int) -> str:
    truth = "labels" if "labels" in pq.read_schema(path).names else "label"
    digest = hashlib.blake2b()
    for column in pq.read_table(path, columns=["id", truth]).columns:
        for chunk in column.chunks:
            digest.update("\n".join(map(repr, chunk.to_pylist())).encode() + b"\n")
    return digest.hexdigest()


def _float(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the finished jobs by macro F1, the best first, then the running, then the failed ones.

    Those that were tested on the same texts stand together.
    """
    rank = table.state.map({"finished": 0, "running": 1, "failed": 2})
    order = table.assign(rank=rank, texts=table.test_set if differ(table) else 0)
    order = order.sort_values(["rank", "texts", "macro_f1"], ascending=[True, True, False], kind="stable")
    return order.drop(columns=["rank", "texts"])


def _known(table: pd.DataFrame) -> list[str]:
    """Returns the columns that are shown between the setting and the scores."""
    return ["seed", "test_set"] if differ(table) else ["seed"]


def _present(table: pd.DataFrame) -> list[str]:
    return [column for column in MEASURED if table[column].notna().any()]


def _fitting(table: pd.DataFrame, width: int) -> list[str]:
    """Returns the columns of scores a console has room for: the foremost, at least one."""
    present = _present(table)
    longest = {c: max(map(len, [c, *table[c]])) for c in ("job", "setting")}
    # Three characters per column are its padding and border; settings can be folded.
    room = width - (longest["job"] + 3) - (min(longest["setting"], 40) + 3) - 7 * len(_known(table)) - 1
    fitting = []
    for column in present:
        cells = [_number(value, column) for value in table[column]]
        room -= max(map(len, [*column.split("_"), *cells])) + 3
        if room >= 0:
            fitting.append(column)
    return fitting or present[:1]


def _best(table: pd.DataFrame) -> dict[str, float]:
    """Returns the best value among the finished jobs of each column in which they differ."""
    done = table[table.state == "finished"]
    differing = [c for c in MEASURED if done[c].nunique() > 1]
    return {c: done[c].min() if c in _LOWER_IS_BETTER else done[c].max() for c in differing}


def _is_best(value: float, column: str, best: dict[str, float]) -> bool:
    """Returns whether a value reads the same as the best of its column."""
    return column in best and _number(value, column) == _number(best[column], column)


def _markdown(table: pd.DataFrame) -> str:
    table, shared = without_shared(table)
    done = _ranked(table[table.state == "finished"])
    counts = ", ".join(f"{n} {state}" for state, n in table.state.value_counts().items())
    lines = [f"# {_title(table)}", "", f"{len(table)} jobs: {counts}." if len(table) else "No jobs yet."]
    if differ(table):
        lines += ["", f"**{DIFFERENT.capitalize()}.** Jobs with one test set share theirs."]
    if shared:
        lines += ["", f"Every job: {code(' '.join(shared))}"]
    if len(done):
        columns, best = _present(done), _best(done) if not differ(done) else {}
        lines += ["", *_grid_head(["job", "setting", *_known(done), *columns])]
        for row in done.to_dict("records"):
            cells = [_bold(_number(row[c], c), _is_best(row[c], c, best)) for c in columns]
            known = [_cell(row[c]) for c in _known(done)]
            lines.append(grid_row([row["job"], code(row["setting"]), *known, *cells]))
        lines += _over_seeds(done, columns)
    for state, heading in (("running", "Running"), ("failed", "Failed")):
        jobs = table[table.state == state].to_dict("records")
        if jobs:
            lines += ["", f"## {heading}", ""]
            lines += [_item(job) for job in jobs]
    return "\n".join([*lines, ""])


def _over_seeds(done: pd.DataFrame, columns: list[str]) -> list[str]:
    """Returns the lines of a table of mean ± standard deviation (n) when a setting was run more than once."""
    if not done.setting.duplicated().any():
        return []
    groups = done.groupby("setting")[columns]
    means, deviations, sizes = groups.mean(), groups.std(), groups.count()
    best = _best(means.assign(state="finished").reindex(columns=["state", *MEASURED])) if not differ(done) else {}
    lines = ["", "## Over seeds", "", *_grid_head(["setting", *columns])]
    for setting in means.sort_values("macro_f1", ascending=False).index:
        cells = []
        for c in columns:
            mean, deviation, size = (frame.loc[setting, c] for frame in (means, deviations, sizes))
            text = f"{_number(mean, c)} ± {_number(deviation, c)} ({size})" if size > 1 else _number(mean, c)
            cells.append(_bold(text, _is_best(mean, c, best)))
        lines.append(grid_row([code(setting), *cells]))
    return lines


def _grid_head(names: list[str]) -> list[str]:
    marks = ["---" if name in ("job", "setting") else "---:" for name in names]
    return [grid_row([name.replace("_", " ") for name in names]), grid_row(marks)]


def _item(job: Mapping[Any, Any]) -> str:
    reason = f": {code(job['reason'])}" if job["state"] == "failed" else ""
    seed = f", seed {job['seed']}" if _cell(job["seed"]) else ""
    return f"- job {job['job']}, {code(job['setting'])}{seed}{reason}"


def _bold(text: str, best: bool) -> str:
    return f"**{text}**" if best else text


def _number(value: float, column: str) -> str:
    if pd.isna(value):
        return ""
    return f"{value:,.0f}" if column == "seconds" else f"{value:.4f}"


def _cell(value: Any) -> str:
    return "" if pd.isna(value) else str(value)
