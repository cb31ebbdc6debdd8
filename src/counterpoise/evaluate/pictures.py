"""The pictures of a run and of a sweep, as PNG files.

Each function writes one picture and replaces the file as a whole. Figures are made without pyplot, so that
nothing global is changed and any number of threads may draw.
"""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from counterpoise.atomic import replacing

PAPER, INK, MUTED, FAINT, GRID = "#fcfcfa", "#1f2a36", "#6b7785", "#a3adb8", "#e4e8ec"
COLOURS = ("#2b6ca3", "#e0752d", "#2f9e83", "#8a5fb0", "#c9a227", "#c8455b")
_RIGHT = LinearSegmentedColormap.from_list("right", [PAPER, "#9cc3e0", COLOURS[0]])
_WRONG = LinearSegmentedColormap.from_list("wrong", [PAPER, "#f5bf95", "#c9521a"])
_MEASURED = {"macro_f1": "macro F1", "balanced_accuracy": "balanced accuracy", "accuracy": "accuracy"}
_SHOWN_CLASSES = 25
_SHOWN_SETTINGS = 40


def confusion(path: str | Path, confusion: np.ndarray, labels: Sequence[str]) -> None:
    """Draws int64 [C, C] (rows are the truth) as percent of each row: blue on the diagonal, orange off it.

    With more than 25 classes the 25 with the most errors (as truth plus as prediction) are shown, in the
    order of the vocabulary, and one more column adds up what went to the others: rows still make 100.
    """
    confusion = np.asarray(confusion)
    classes = len(labels)
    support = confusion.sum(axis=1)
    share = confusion / np.maximum(support, 1)[:, None]
    shown, title = np.arange(classes), f"Confusion of {classes} classes"
    if classes > _SHOWN_CLASSES:
        errors = support + confusion.sum(axis=0) - 2 * np.diag(confusion)
        shown = np.sort(np.argsort(-errors, kind="stable")[:_SHOWN_CLASSES])
        rest = np.delete(share[shown], shown, axis=1).sum(axis=1)
        share = np.column_stack([share[np.ix_(shown, shown)], rest])
        title = f"Confusion of the {_SHOWN_CLASSES} classes, of {classes}, with the most errors"
    rows = len(shown)
    truths = [f"{_short(labels[i])}  ({support[i]:,})" for i in shown.tolist()]
    predictions = [_short(labels[i]) for i in shown.tolist()] + ["all others"] * (classes > rows)

    # The square root lifts the small shares, which is what most errors are.
    image = _WRONG(np.sqrt(share))
    image[range(rows), range(rows)] = _RIGHT(np.diag(share))
    cell = float(np.clip(7.5 / rows, 0.34, 0.75))
    figure = Figure(figsize=(cell * len(predictions) + 2.2, cell * rows + 2.0), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(image, aspect="equal")
    written = share > 0
    written[range(rows), range(rows)] = support[shown] > 0
    size = 7.5 if rows > 15 else 9.5
    for row, column in np.argwhere(written):
        value, right = share[row, column], row == column
        colour = PAPER if value > (0.55 if right else 0.4) else MUTED if value < 0.005 and not right else INK
        axes.text(column, row, _percent(value), ha="center", va="center_baseline", fontsize=size, color=colour)
    _style(axes, grid=None)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(len(predictions) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=GRID, linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.set_xticks(range(len(predictions)), predictions, rotation=45, ha="right")
    axes.set_yticks(range(rows), truths)
    for tick in axes.get_xticklabels():
        tick.set_rotation_mode("anchor")
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth (examples)")
    _title(axes, title, "percent of the examples of each true class")
    _save(figure, path)


def recall_vs_count(
    path: str | Path,
    runs: dict[str, tuple[np.ndarray, np.ndarray]],
    test_counts: np.ndarray | None = None,
    tail_max: int = 20,
    head_min: int = 101,
) -> None:
    """Draws the recall of each class over its training count, and the mean over classes of similar count.

    runs: for each name the training counts int [C] and the recall float [C], NaN where a class is absent;
    test_counts: int [C], shown as the size of the points. The means are over geometric bins, two per decade.
    The bounds are those of `metrics.buckets`.
    """
    figure = Figure(figsize=(9, 4.9), layout="constrained")
    axes = figure.add_subplot()
    _style(axes, grid="y")
    # A logarithm has no place for a class without training examples: it is drawn at 1/2, and labelled 0.
    places = {name: np.maximum(counts, 0.5).astype(float) for name, (counts, _) in runs.items()}
    low = min((float(x.min()) for x in places.values()), default=1.0)
    high = max((float(x.max()) for x in places.values()), default=1.0)
    edges = np.geomspace(low, high * 1.001, max(3, round(2 * np.log10(high / low))) + 1)
    area = 34.0 if test_counts is None else 14 + 6 * np.sqrt(np.minimum(test_counts, 400))
    for (name, (_, recall)), colour in zip(runs.items(), cycle(COLOURS), strict=False):
        x, recall = places[name], np.asarray(recall)
        axes.scatter(x, recall, s=area, color=colour, alpha=0.38, linewidth=0, zorder=2)
        known = ~np.isnan(recall)
        bins = np.digitize(x[known], edges)
        means = pd.DataFrame({"x": np.log(x[known]), "y": recall[known]}).groupby(bins).mean()
        (line,) = axes.plot(np.exp(means.x), means.y, color=colour, linewidth=2.6, label=_plain(name), zorder=3)
        line.set_path_effects([withStroke(linewidth=4, foreground=PAPER)])
        axes.plot(np.exp(means.x), means.y, "o", color=colour, markersize=7, markeredgecolor=PAPER, zorder=4)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.25, high * 1.25)
    axes.set_ylim(-0.03, 1.03)
    marks = [0.5, *(digit * 10.0**power for power in range(8) for digit in (1, 3))]
    marks = [x for x in marks if low / 1.25 <= x <= high * 1.25 and (x > 0.5 or low < 1)]
    axes.set_xticks(marks, [f"{x:,.0f}" if x > 0.5 else "0" for x in marks])
    axes.xaxis.minorticks_off()
    _mark_buckets(axes, tail_max, head_min)
    axes.set_xlabel("training examples of the class (log scale)")
    axes.set_ylabel("recall")
    if len(runs) > 1:
        _legend(axes, loc="lower right", bbox_to_anchor=(1, 1.05), borderaxespad=0, ncols=min(len(runs), 4))
    sized = "" if test_counts is None else ", larger with more test examples"
    _title(axes, "Recall by training count", f"a point is a class{sized}; a line is their mean", above=22)
    _save(figure, path)


def curves(path: str | Path, history: pd.DataFrame) -> None:
    """Draws the losses (left) and the validation scores (right) by step.

    history: the `metrics.csv` of Lightning's CSVLogger, with a column `step` and, each optional and sparse,
    `train/loss`, `val/loss`, `val/loss_weighted`, `val/macro_f1`, `val/balanced_accuracy`, `val/accuracy`.
    """
    figure = Figure(figsize=(10, 4.1), layout="constrained")
    losses, scores = figure.subplots(1, 2, sharex=True)
    measured = history.columns[history.notna().any()]
    train = next((c for c in ("train/loss", "train/loss_step", "train/loss_epoch") if c in measured), None)
    if train is not None:
        x, y = _series(history, train)
        smooth = y.rolling(max(1, len(y) // 20), center=True, min_periods=1).mean()
        losses.plot(x, y, color=COLOURS[0], alpha=0.22, linewidth=1)
        losses.plot(x, smooth, color=COLOURS[0], linewidth=2, label="training")
    _points(losses, history, {"val/loss": "validation", "val/loss_weighted": "validation, weighted"}, first=1)
    _points(scores, history, {f"val/{metric}": name for metric, name in _MEASURED.items()})
    for axes, title in ((losses, "Loss"), (scores, "Validation scores")):
        _style(axes, grid="y")
        _title(axes, title)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        if axes.lines:
            _legend(axes, loc="best")
        else:
            axes.tick_params(labelbottom=False, labelleft=False)
            axes.text(0.5, 0.5, "nothing measured", transform=axes.transAxes, ha="center", color=MUTED)
    _save(figure, path)


def leaderboard(path: str | Path, table: pd.DataFrame) -> None:
    """Draws macro F1, balanced accuracy and accuracy of each setting: a point per seed, the mean as a bar.

    table: as from `leaderboard.collect`; jobs that did not finish are left out. The best macro F1 is on top,
    and no more than the best 40 settings are drawn.
    """
    done = table[(table.state == "finished") & table.macro_f1.notna()]
    means = done.groupby("setting")[list(_MEASURED)].mean().sort_values("macro_f1", ascending=False)
    title = "Leaderboard"
    if len(means) > _SHOWN_SETTINGS:
        title += f": the best {_SHOWN_SETTINGS} of {len(means)} settings"
        means = means.head(_SHOWN_SETTINGS)
    figure = Figure(figsize=(10, 1.5 + 0.36 * max(len(means), 2)), layout="constrained")
    panels = figure.subplots(1, len(_MEASURED), sharey=True)
    for axes, colour, (metric, name) in zip(panels, COLOURS, _MEASURED.items(), strict=False):
        _style(axes, grid="x")
        axes.barh(range(len(means)), means[metric], height=0.56, color=_faint(colour), zorder=2)
        for row, setting in enumerate(means.index):
            values = done.loc[done.setting == setting, metric]
            axes.scatter(values, [row] * len(values), s=22, color=colour, linewidth=0, alpha=0.85, zorder=3)
            mean = means.loc[setting, metric]
            bold = "bold" if mean == means[metric].max() else "normal"
            axes.text(1.03, row, f"{mean:.3f}", va="center_baseline", fontsize=9.5, color=INK, fontweight=bold)
        axes.set_xlim(0, 1.22)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        axes.set_title(name, loc="left", color=INK, fontsize=11, pad=8)
        axes.spines["bottom"].set_visible(False)
    panels[0].set_yticks(range(len(means)), [_short(setting, 60) for setting in means.index])
    panels[0].set_ylim(max(len(means), 1) - 0.4, -0.6)
    if done.setting.duplicated().any():
        panels[0].set_xlabel("a bar is a mean, a point a seed", loc="left")
    if means.empty:
        panels[1].text(0.5, 0.5, "no finished job", transform=panels[1].transAxes, ha="center", color=MUTED)
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=13, fontweight="bold")
    _save(figure, path)


def _mark_buckets(axes: Axes, tail_max: int, head_min: int) -> None:
    """Draws the bounds of `metrics.buckets` over a logarithmic axis of counts and names the buckets."""
    left, right = axes.get_xlim()
    borders = [left, tail_max - 0.5, head_min - 0.5, right]
    for border in borders[1:3]:
        if left < border < right:
            axes.axvline(border, color=FAINT, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
    for name, start, end in zip(("tail", "medium", "head"), borders, borders[1:], strict=False):
        start, end = max(start, left), min(end, right)
        if end > start:
            middle = float(np.sqrt(start * end))
            axes.annotate(
                name,
                (middle, 1),
                (0, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                color=MUTED,
                fontsize=9.5,
            )


def _points(axes: Axes, history: pd.DataFrame, names: dict[str, str], first: int = 0) -> None:
    """Draws each column of `names` that holds a number, as a line through its points."""
    for (column, label), colour in zip(names.items(), COLOURS[first:], strict=False):
        if column in history and history[column].notna().any():
            x, y = _series(history, column)
            axes.plot(x, y, color=colour, linewidth=2, marker="o", markersize=5, label=label)


def _series(history: pd.DataFrame, column: str) -> tuple[pd.Series, pd.Series]:
    """Returns the steps and the values of the rows that hold one."""
    known = history.dropna(subset=[column]).sort_values("step", kind="stable")
    return known["step"], known[column]


def _style(axes: Axes, grid: Literal["x", "y"] | None) -> None:
    axes.set_facecolor(PAPER)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(which="both", length=0, labelsize=9.5, labelcolor=INK, pad=5)
    axes.xaxis.label.set(color=MUTED, fontsize=10)
    axes.yaxis.label.set(color=MUTED, fontsize=10)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=GRID, linewidth=1)


def _title(axes: Axes, title: str, explanation: str = "", above: float = 8) -> None:
    """Writes the title, and a line that explains it `above` points over the axes."""
    axes.set_title(title, loc="left", color=INK, fontsize=13, fontweight="bold", pad=above + 19 if explanation else 10)
    axes.annotate(explanation, (0, 1), (0, above), xycoords="axes fraction", textcoords="offset points", color=MUTED)


def _legend(axes: Axes, **where: Any) -> None:
    axes.legend(facecolor=PAPER, edgecolor="none", framealpha=0.85, labelcolor=INK, fontsize=9.5, **where)


def _faint(colour: str) -> tuple[float, ...]:
    """Returns the colour at 28 % on paper, opaque, so that no grid line shines through."""
    return tuple(0.28 * np.array(to_rgb(colour)) + 0.72 * np.array(to_rgb(PAPER)))


def _percent(share: float) -> str:
    """Returns a whole percent that is 0 or 100 only when the share is."""
    if share in (0, 1):
        return f"{share:.0%}"[:-1]
    return "<1" if share < 0.005 else f"{min(round(100 * share), 99)}"


def _short(name: str, limit: int = 26) -> str:
    return _plain(name if len(name) <= limit else f"{name[: limit - 1]}…")


def _plain(text: str) -> str:
    """Returns text that matplotlib draws as it is: a pair of dollar signs would start a formula."""
    return text.replace("$", r"\$")


def _save(figure: Figure, path: str | Path) -> None:
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=144, facecolor=PAPER, bbox_inches="tight", pad_inches=0.2)
