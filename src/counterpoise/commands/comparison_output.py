"""Print and write a comparison of runs: tables, report and plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from counterpoise.analysis import plots
from counterpoise.analysis.comparison import Comparison, Group
from counterpoise.analysis.job_folders import is_job
from counterpoise.analysis.search_results import read_search
from counterpoise.analysis.significance import significant
from counterpoise.csv_tables import write_csv
from counterpoise.errors import UserError, nearest
from counterpoise.io import atomic_path
from counterpoise.metrics import registry
from counterpoise.report.comparison.comparison_report import write_comparison_report
from counterpoise.report.comparison.formatting import p_value, shown_name, unit
from counterpoise.terminal import encodable


def histories(arguments: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return the metrics that the run of each NAME=RUN logged by step."""
    found: dict[str, pd.DataFrame] = {}
    for argument in arguments:
        name, equals, run = argument.partition("=")
        if not equals:
            raise UserError(f"{argument}: --losses needs a name for each run, such as plain={argument}")
        if name in found:
            raise UserError(f"--losses plots one run per name: {name} has several runs")
        path = Path(run) / "csv" / "metrics.csv"
        if not path.is_file():
            raise UserError(f"{run} has no csv/metrics.csv: train with logger=csv or the default logger")
        found[name] = pd.read_csv(path)
    return found


def output_folder(arguments: Sequence[str]) -> Path:
    """Return the sweep folder for a single sweep, otherwise ./comparison."""
    only = Path(arguments[0])
    return only if len(arguments) == 1 and only.is_dir() and not is_job(only) else Path("comparison")


def drawn_groups(comparison: Comparison, chosen: str | None) -> list[str]:
    """Return the names of the two groups to plot.

    Args:
        comparison: Groups, best first.
        chosen: Names as "A,B". Defaults to the reference and the best other group.

    Raises:
        UserError: A name is unknown.
    """
    names = [group.name for group in comparison.groups]
    if chosen is None:
        return [comparison.reference, *(name for name in names if name != comparison.reference)][:2]
    # Names may contain commas: try each comma as the separator.
    places = [place for place, character in enumerate(chosen) if character == ","]
    pairs = [[chosen[:place].strip(), chosen[place + 1 :].strip()] for place in places]
    fitting = [pair for pair in pairs if set(pair) <= set(names)]
    if not fitting:
        hint = "".join(nearest(name, names) for name in pairs[0] if name not in names) if pairs else ""
        raise UserError(f"--picture {chosen}: name two groups, such as A,B.{hint} Groups: {', '.join(names)}")
    return fitting[0]


def title(comparison: Comparison) -> str:
    """Return the title: the metric, and whether the runs are linear probes."""
    probes = set(comparison.probes)
    what = {True: "Probe comparison", False: "Comparison"}[probes == {True}]
    mixed = " of probes and fine-tuned runs" if len(probes) > 1 else ""
    return f"{what}{mixed} by {registry.title(comparison.metric)}"


def show(comparison: Comparison, console: Console) -> None:
    """Print the groups, best first, and the summary. A narrow console shows only the first columns."""
    columns = _columns(comparison)
    names = columns.pop("group")
    room = console.width - min(max(map(len, [*names, "group"])), max(12, console.width // 3)) - 4
    table = Table(title=title(comparison), title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    table.add_column("group", overflow="fold")
    shown: list[list[str]] = []
    for heading, cells in columns.items():
        room -= max(map(len, [heading, *cells])) + 3
        if room < 0 and shown:
            break
        table.add_column(heading, justify="right", no_wrap=True)
        shown.append(cells)
    for number, name in enumerate(names):
        table.add_row(
            Text(encodable(name)), *[Text(cells[number]) for cells in shown], style="bold" if number == 0 else None
        )
    if "difference" in list(columns)[: len(shown)]:
        table.caption = Text(
            f"difference: to {comparison.reference}; p-values are adjusted for the number of comparisons"
        )
    console.print(table)
    for sentence in comparison.summary:
        console.print(Text(f"- {sentence}"))


def write(folder: Path, comparison: Comparison, drawn: Sequence[str]) -> None:
    """Write the report, the tables and the recall plot of the groups `drawn` into the folder.

    The report shows the search of hyperparameters if this is the folder of one.
    """
    write_comparison_report(folder / "comparison.html", comparison, read_search(folder))
    with atomic_path(folder / "comparison.md") as path:
        path.write_text(_markdown(comparison), encoding="utf-8")
    for name, table in (
        ("comparison", _scores(comparison)),
        ("pairs", comparison.pairs),
        ("classes", comparison.classes),
    ):
        write_csv(table, folder / f"{name}.csv")
    by_class = {name: comparison.classes[comparison.classes["group"] == name] for name in drawn}
    runs = {name: (comparison.counts, table["recall"].to_numpy()) for name, table in by_class.items()}
    plots.recall_vs_count(folder / "recall_vs_count.png", runs, *comparison.bounds, unit=unit(comparison))


def _columns(comparison: Comparison) -> dict[str, list[str]]:
    """Return the cells of the table by heading, most important first."""
    groups, metric = comparison.groups, comparison.metric
    intervals = [group.intervals[metric] for group in groups]
    columns = {
        "group": [shown_name(comparison, number) for number in range(len(groups))],
        registry.title(metric): [_mean(group, metric) for group in groups],
        "95 %": [f"{low:.3f} to {high:.3f}" for low, high in intervals],
    }
    if len(groups) > 1:
        effects = comparison.effects[comparison.effects["metric"] == metric].set_index("group")
        rows = {str(name): row for name, row in effects.to_dict("index").items()}
        columns["difference"] = [_difference(rows[g.name]) if g.name in rows else "" for g in groups]
    return columns | {
        "seconds": [_number(group.seconds) for group in groups],
        "steps": [_number(group.steps) for group in groups],
        "seeds": [str(len(group.seeds)) for group in groups],
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if np.isfinite(value) else ""


def _mean(group: Group, metric: str) -> str:
    values = group.scores[metric]
    return f"{values.mean():.3f} ± {values.std():.3f}" if len(values) > 1 else f"{values.mean():.3f}"


def _difference(effect: Mapping[Any, Any]) -> str:
    return f"{effect['difference']:+.3f} (p {p_value(effect['p_adjusted'])})"


def _scores(comparison: Comparison) -> pd.DataFrame:
    """Return a row per group and metric: mean, sd, interval, difference to the reference, and training cost."""
    rows = [
        {
            "group": group.name,
            "metric": metric,
            "mean": group.scores[metric].mean(),
            "sd": group.scores[metric].std(),
            "low": group.intervals[metric][0],
            "high": group.intervals[metric][1],
            "seeds": len(group.seeds),
            "probe": group.probe,
            "seconds": group.seconds,
            "epochs": group.epochs,
            "steps": group.steps,
        }
        for group in comparison.groups
        for metric in comparison.metrics
    ]
    effects = comparison.effects.rename(columns={"low": "difference_low", "high": "difference_high"})
    return pd.DataFrame(rows).merge(effects, "left", ["group", "metric"])


def _markdown(comparison: Comparison) -> str:
    classes = f"{len(comparison.labels):,} {unit(comparison, len(comparison.labels))}"
    lines = [f"# {title(comparison)}", "", f"{comparison.texts:,} test texts, {classes}.", ""]
    lines += ["- " + sentence.replace("<", r"\<") for sentence in comparison.summary]
    columns = _columns(comparison)
    columns["group"] = list(map(_code, columns["group"]))
    lines += ["", *_grid(columns)]
    effects = comparison.effects[significant(comparison.effects)]
    apart = set(zip(effects["group"], effects["metric"], strict=True))
    scores = {
        registry.title(metric): [
            f"**{_mean(group, metric)}**" if (group.name, metric) in apart else _mean(group, metric)
            for group in comparison.groups
        ]
        for metric in comparison.metrics
    }
    lines += ["", "## All scores", "", *_grid({"group": columns["group"], **scores}), ""]
    bold = f" Bold: differs significantly from {comparison.reference}." if apart else ""
    lines.append(f"Mean ± standard deviation over seeds.{bold}")
    return "\n".join([*lines, ""])


def _grid(columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table with right-aligned numbers."""
    marks = ["---" if heading == "group" else "---:" for heading in columns]
    rows = [list(columns), marks, *map(list, zip(*columns.values(), strict=True))]
    return [_grid_row(row) for row in rows]


def _grid_row(cells: list[str]) -> str:
    """Return a row of a Markdown table."""
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _code(text: str) -> str:
    """Return text as Markdown code on one line, so that none of it is read as markup."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`"
