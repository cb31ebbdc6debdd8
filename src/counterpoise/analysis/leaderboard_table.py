"""The leaderboard of a sweep in the terminal."""

from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from counterpoise.analysis.leaderboard import (
    BASELINE,
    INCOMPARABLE,
    have_different_test_sets,
    measured_columns,
    rank,
    split_shared_overrides,
)
from counterpoise.metrics import registry


def show(table: pd.DataFrame, console: Console) -> None:
    """Print the leaderboard by macro F1: the best value of a column green, failed jobs red with their reason.

    A narrow console shows the first columns only; `leaderboard.csv` holds all.
    """
    table, shared = split_shared_overrides(table)
    incomparable = have_different_test_sets(table)
    columns, best = _fitting_columns(table, console.width), {} if incomparable else _best_values(table)
    notes = [*([f"every job: {' '.join(shared)}"] if shared else []), *([INCOMPARABLE] if incomparable else [])]
    printed = Table(title=_title(table), caption=Text("\n".join(notes)) if notes else None, header_style="bold")
    printed.add_column("job", justify="right", no_wrap=True)
    printed.add_column("setting", overflow="fold")
    for column in (*_identity_columns(table), *columns):
        printed.add_column(column.replace("_", "\n"), justify="right", no_wrap=True)
    for row in rank(table).to_dict("records"):
        failed = row["state"] == "failed"
        setting = Text(row["setting"])
        if row["state"] != "finished":
            detail = {"failed": row["reason"], "pruned": f"pruned: {row['reason']}"}.get(row["state"], "running")
            setting.append(f"\n{detail}", style="" if failed else "italic")
        cells = [Text(_number(row[c], c), style="bold green" if _is_best(row[c], c, best) else "") for c in columns]
        identity = [_cell(row[c]) for c in _identity_columns(table)]
        printed.add_row(Text(row["job"]), setting, *identity, *cells, style="red" if failed else None)
    console.print(printed)


def _title(table: pd.DataFrame) -> str:
    if not table.probe.any():
        return "Leaderboard"
    all_probes = table.probe[(table.state == "finished") & (table.setting != BASELINE)].all()
    return f"Leaderboard of linear probes{'' if all_probes else ' and fine-tuned runs'}"


def _identity_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns between the setting and the scores."""
    fold, test_set = table.fold.notna().any(), have_different_test_sets(table)
    return ["seed", *(["fold"] if fold else []), *(["test_set"] if test_set else [])]


def _fitting_columns(table: pd.DataFrame, width: int) -> list[str]:
    """Return the first score columns that fit into the console, at least one."""
    present = [column for column in measured_columns() if table[column].notna().any()]
    longest = {c: max(map(len, [c, *table[c]])) for c in ("job", "setting")}
    # Each column needs three characters of padding and border. Settings can be folded.
    room = width - (longest["job"] + 3) - (min(longest["setting"], 40) + 3) - 7 * len(_identity_columns(table)) - 1
    fitting = []
    for column in present:
        cells = [_number(value, column) for value in table[column]]
        room -= max(map(len, [*column.split("_"), *cells])) + 3
        if room >= 0:
            fitting.append(column)
    return fitting or present[:1]


def _best_values(table: pd.DataFrame) -> dict[str, float]:
    """Return the best value of each column in which finished jobs differ."""
    finished = table[table.state == "finished"]
    lower_is_better = {m.name for m in registry.columns("leaderboard") if not m.higher_is_better} | {"seconds"}
    differing = [c for c in measured_columns() if finished[c].nunique() > 1]
    return {c: finished[c].min() if c in lower_is_better else finished[c].max() for c in differing}


def _is_best(value: float, column: str, best: dict[str, float]) -> bool:
    """Return whether a value equals the best of its column as displayed."""
    return column in best and _number(value, column) == _number(best[column], column)


def _number(value: float, column: str) -> str:
    if pd.isna(value):
        return ""
    return f"{value:,.0f}" if column == "seconds" else f"{value:.4f}"


def _cell(value: Any) -> str:
    return "" if pd.isna(value) else str(value)
