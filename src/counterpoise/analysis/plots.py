"""The pictures of a run and of a sweep, as PNG files.

Each function writes one picture and replaces the file as a whole. Figures are made without pyplot, so that
nothing global is changed and any number of threads may draw.
"""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from counterpoise.analysis import plot_style
from counterpoise.analysis.plot_style import COLOURS, FAINT, GRID, INK, MUTED, PAPER

_RIGHT = LinearSegmentedColormap.from_list("right", [PAPER, "#9cc3e0", COLOURS[0]])
_WRONG = LinearSegmentedColormap.from_list("wrong", [PAPER, "#f5bf95", "#c9521a"])
_SINGLE_LABEL = {"macro_f1": "macro F1", "balanced_accuracy": "balanced accuracy", "accuracy": "accuracy"}
_MULTI_LABEL = {"macro_f1": "macro F1", "micro_f1": "micro F1", "map": "mean average precision"}
_GRADIENT = "train/grad_norm"
_SHOWN_CLASSES = 25
_SHOWN_SETTINGS = 40
_CROWD = 150


def confusion(path: str | Path, confusion: np.ndarray, labels: Sequence[str]) -> None:
    """Draws int64 [C, C] (rows are the truth) as percent of each row: blue on the diagonal, orange off it.

    With more than 25 classes the 25 with the most errors (as truth plus as prediction) are shown, in the
    order of the vocabulary, and one more column adds up what went to the others: rows still make 100.
    """
    confusion = np.asarray(confusion)
    classes = len(labels)
    support = confusion.sum(axis=1)
    shown, title = np.arange(classes), f"Confusion of {classes} classes"
    if classes > _SHOWN_CLASSES:
        errors = support + confusion.sum(axis=0) - 2 * np.diag(confusion)
        shown = np.sort(np.argsort(-errors, kind="stable")[:_SHOWN_CLASSES])
        title = f"Confusion of the {_SHOWN_CLASSES} classes, of {classes}, with the most errors"
    share = confusion[shown] / np.maximum(support[shown], 1)[:, None]
    if len(shown) < classes:
        share = np.column_stack([share[:, shown], np.delete(share, shown, axis=1).sum(axis=1)])
    rows = len(shown)
    truths = [f"{plot_style.short(labels[i])}  ({support[i]:,})" for i in shown.tolist()]
    predictions = [plot_style.short(labels[i]) for i in shown.tolist()] + ["all others"] * (classes > rows)

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
        axes.text(
            column, row, plot_style.percent(value), ha="center", va="center_baseline", fontsize=size, color=colour
        )
    plot_style.axes(axes, grid=None)
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
    plot_style.title(axes, title, "percent of the examples of each true class")
    plot_style.save(figure, path)


def recall_vs_count(
    path: str | Path,
    runs: dict[str, tuple[np.ndarray, np.ndarray]],
    tail_max: int = 20,
    head_min: int = 101,
    unit: str = "class",
) -> None:
    """Draws the recall of each class over its training count, and the mean over classes of similar count.

    runs: for each name the training counts int [C] and the recall float [C], NaN where a class is absent. The means
    are over geometric bins, two per decade. The bounds are those of `metrics.buckets`. unit: what the picture calls a
    class: "class" or "label". With more than 150 of them points are smaller, those at one place become one larger
    point, and runs stand side by side.
    """
    figure = Figure(figsize=(9, 4.9), layout="constrained")
    axes = figure.add_subplot()
    plot_style.axes(axes, grid="y")
    # A logarithm has no place for a class without training examples: it is drawn at 1/2, and labelled 0.
    places = {name: np.maximum(counts, 0.5).astype(float) for name, (counts, _) in runs.items()}
    low = min((float(x.min()) for x in places.values()), default=1.0)
    high = max((float(x.max()) for x in places.values()), default=1.0)
    edges = np.geomspace(low, high * 1.001, max(3, round(2 * np.log10(high / low))) + 1)
    crowd = max((len(x) for x in places.values()), default=0) > _CROWD
    for number, ((name, (_, recall)), colour) in enumerate(zip(runs.items(), cycle(COLOURS), strict=False)):
        x, recall = places[name], np.asarray(recall)
        points = pd.DataFrame({"x": x, "y": recall, "area": 12.0 if crowd else 34.0})
        if crowd:
            points = points.groupby(["x", "y"], as_index=False).sum()
            points["x"] *= 1.035 ** (2 * number - len(runs) + 1)
        axes.scatter(points.x, points.y, s=points.area, color=colour, alpha=0.38, linewidth=0, zorder=2)
        known = ~np.isnan(recall)
        bins = np.digitize(x[known], edges)
        means = pd.DataFrame({"x": np.log(x[known]), "y": recall[known]}).groupby(bins).mean()
        (line,) = axes.plot(
            np.exp(means.x), means.y, color=colour, linewidth=2.6, label=plot_style.plain(name), zorder=3
        )
        line.set_path_effects([withStroke(linewidth=4, foreground=PAPER)])
        axes.plot(np.exp(means.x), means.y, "o", color=colour, markersize=7, markeredgecolor=PAPER, zorder=4)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.25, high * 1.25)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xticks(*count_marks(low, high, 1.25))
    axes.xaxis.minorticks_off()
    _mark_buckets(axes, tail_max, head_min)
    axes.set_xlabel(f"training examples of the {unit} (log scale)")
    axes.set_ylabel("recall")
    if len(runs) > 1:
        plot_style.legend(axes, loc="lower right", bbox_to_anchor=(1, 1.12), borderaxespad=0, ncols=min(len(runs), 4))
    sized = ", larger where several coincide" if crowd else ""
    plot_style.title(axes, "Recall by training count", f"a point is a {unit}{sized}; a line is their mean", above=22)
    plot_style.save(figure, path)


def count_marks(low: float, high: float, room: float) -> tuple[list[float], list[str]]:
    """Returns where an axis of counts on a log scale is labelled, and how.

    low, high: the smallest and the largest count on it, which it goes beyond by a factor `room`. Labelled are 1, 3, 10,
    30 and so on; where it holds none of them, the two counts. What has no examples stands at 1/2 and is labelled 0.
    """
    marks = [0.5, *(digit * 10.0**power for power in range(9) for digit in (1, 3))]
    ends = [low, high] if high > 1.05 * low else [low]
    marks = [mark for mark in marks if low / room <= mark <= high * room] or ends
    return marks, [f"{mark:,.0f}" if mark > 0.5 else "0" for mark in marks]


def curves(path: str | Path, history: pd.DataFrame) -> None:
    """Draws the losses (left) and the validation scores by step, and the gradient norm where there is one.

    history: the `metrics.csv` of Lightning's CSVLogger, with a column `step` and, each optional and sparse,
    `train/loss`, `train/grad_norm`, `val/loss`, `val/loss_weighted` and the scores: `val/macro_f1` with
    `val/micro_f1` and `val/map` where there is a mean average precision, as multi-label runs have it, otherwise with
    `val/balanced_accuracy` and `val/accuracy`. Losses are on a log scale where training grows to 20 times its start.
    """
    widths = [1, 1, 0.56] if _holds(history, _GRADIENT) else [1, 1]
    figure = Figure(figsize=(5 * sum(widths), 4.1), layout="constrained")
    losses, scores, *gradients = figure.subplots(1, len(widths), width_ratios=widths)
    train = _train_loss(history)
    if train is not None:
        x, y = _series(history, train)
        smooth = y.rolling(max(1, len(y) // 20), center=True, min_periods=1).mean()
        losses.plot(x, y, color=COLOURS[0], alpha=0.22, linewidth=1)
        losses.plot(x, smooth, _alone(y), color=COLOURS[0], linewidth=2, label="training")
        if y.max() > 20 * _start(y):
            plot_style.log_scale(losses)
    _points(losses, history, {"val/loss": "validation", "val/loss_weighted": "validation, weighted"}, first=1)
    names = _MULTI_LABEL if _holds(history, "val/map") else _SINGLE_LABEL
    _points(scores, history, {f"val/{metric}": name for metric, name in names.items()})
    for axes, title in ((losses, "Loss"), (scores, "Validation scores")):
        plot_style.axes(axes, grid="y")
        plot_style.title(axes, title)
        _mark_steps(axes, history)
        if axes.lines:
            plot_style.legend(axes, loc="best")
        else:
            plot_style.say(axes, "nothing measured")
    for axes in gradients:
        plot_style.axes(axes, grid="y")
        plot_style.title(axes, "Gradient norm")
        _trace(axes, *_series(history, _GRADIENT), COLOURS[0])
        plot_style.log_scale(axes)
        _mark_steps(axes, history, most=3)
    plot_style.save(figure, path)


def loss_and_gradients(path: str | Path, histories: dict[str, pd.DataFrame]) -> None:
    """Draws for several runs the training loss (left) and the gradient norm (right) by step, both on a log scale.

    histories: for each name a history as `curves` takes it, without which its lines are left out. Losses with other
    weights do not compare: each is divided by its own start, the median of its first tenth and at most of its first
    ten values. A bold line is a running median over a twentieth of the run; what is not finite leaves a gap. Where a
    run ends before the others there is a cross.
    """
    figure = Figure(figsize=(11, 4.7), layout="constrained")
    losses, norms = figure.subplots(1, 2)
    steps = pd.DataFrame({"step": [history["step"].max() for history in histories.values() if len(history)]})
    for (name, history), colour in zip(histories.items(), cycle(COLOURS), strict=False):
        ends = _ends(history, steps)
        losses.plot([], [], color=colour, linewidth=2.4, label=plot_style.plain(name))
        train = _train_loss(history)
        if train is not None:
            x, y = _series(history, train)
            _trace(losses, x, y / _start(y), colour, ends)
        if _holds(history, _GRADIENT):
            _trace(norms, *_series(history, _GRADIENT), colour, ends)
    crosses = "; a cross: ended early" if any(_ends(each, steps) for each in histories.values()) else ""
    for axes, title, explanation in (
        (losses, "Training loss", f"relative to each run's start{crosses}"),
        (norms, "Gradient norm", "before clipping"),
    ):
        plot_style.axes(axes, grid="y")
        plot_style.title(axes, title, explanation)
        _mark_steps(axes, steps)
        if any(np.isfinite(line.get_ydata()).any() for line in axes.lines):
            plot_style.log_scale(axes)
        else:
            plot_style.say(axes, "nothing measured")
    if losses.get_yscale() == "log":
        losses.axhline(1, color=FAINT, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
    if histories:
        handles, labels = losses.get_legend_handles_labels()
        columns = min(len(histories), 4)
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=10)
        for text in legend.get_texts():
            text.set_color(INK)
    plot_style.save(figure, path)


def leaderboard(path: str | Path, table: pd.DataFrame, remark: str = "") -> None:
    """Draws macro F1 and two more scores of each setting: a point per seed, the mean as a bar.

    The two are micro F1 and mean average precision where a job has the latter, as multi-label jobs do, otherwise
    balanced accuracy and accuracy. table: as from `leaderboard.collect`; jobs that did not finish are left out. The
    best macro F1 is on top, and no more than the best 40 settings are drawn. remark: why scores do not compare, if they
    do not; the best of them are bold otherwise.
    """
    done = table[(table.state == "finished") & table.macro_f1.notna()]
    names = _MULTI_LABEL if _holds(done, "map") else _SINGLE_LABEL
    means = done.groupby("setting")[list(names)].mean().sort_values("macro_f1", ascending=False)
    title = "Leaderboard"
    if len(means) > _SHOWN_SETTINGS:
        title += f": the best {_SHOWN_SETTINGS} of {len(means)} settings"
        means = means.head(_SHOWN_SETTINGS)
    title += f", {remark}" if remark else ""
    figure = Figure(figsize=(10, 1.5 + 0.36 * max(len(means), 2)), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True)
    for axes, colour, (metric, name) in zip(panels, COLOURS, names.items(), strict=False):
        plot_style.axes(axes, grid="x")
        axes.barh(range(len(means)), means[metric], height=0.56, color=plot_style.faint(colour), zorder=2)
        for row, setting in enumerate(means.index):
            values = done.loc[done.setting == setting, metric]
            axes.scatter(values, [row] * len(values), s=22, color=colour, linewidth=0, alpha=0.85, zorder=3)
            mean = means.loc[setting, metric]
            bold = "bold" if mean == means[metric].max() and not remark else "normal"
            shown = "" if np.isnan(mean) else f"{mean:.3f}"
            axes.text(1.03, row, shown, va="center_baseline", fontsize=9.5, color=INK, fontweight=bold)
        axes.set_xlim(0, 1.22)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        axes.set_title(name, loc="left", color=INK, fontsize=11, pad=8)
        axes.spines["bottom"].set_visible(False)
    panels[0].set_yticks(range(len(means)), [plot_style.short(setting, 60) for setting in means.index])
    panels[0].set_ylim(max(len(means), 1) - 0.4, -0.6)
    if done.setting.duplicated().any():
        panels[0].set_xlabel("a bar is a mean, a point a seed", loc="left")
    if means.empty:
        plot_style.say(panels[1], "no finished job")
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=13, fontweight="bold")
    plot_style.save(figure, path)


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


def _trace(axes: Axes, x: pd.Series, y: pd.Series, colour: str, ends: bool = False) -> None:
    """Draws positive values: faint as they are, bold their running median, with a cross at the end if it `ends`."""
    y = y.where(np.isfinite(y) & (y > 0))
    smooth = y.rolling(max(1, len(y) // 20), center=True, min_periods=1).median().where(y.notna())
    axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.9, zorder=2)
    (line,) = axes.plot(x, smooth, _alone(y), color=colour, linewidth=2.2, zorder=3)
    line.set_path_effects([withStroke(linewidth=3.6, foreground=PAPER)])
    last = smooth.last_valid_index()
    if ends and last is not None:
        axes.plot(x[last], smooth[last], "X", color=colour, markersize=9, markeredgecolor=PAPER, zorder=4)


def _alone(y: pd.Series) -> str:
    """Returns the style of a line: with a point if it has only one value, which no line would show."""
    return "o-" if y.count() == 1 else "-"


def _train_loss(history: pd.DataFrame) -> str | None:
    """Returns the column of the training loss, by step where there is one."""
    return next((c for c in ("train/loss", "train/loss_step", "train/loss_epoch") if _holds(history, c)), None)


def _start(y: pd.Series) -> float:
    """Returns the median of the first tenth of the finite values, of ten at most."""
    known = y[np.isfinite(y)]
    return float(known.head(min(10, max(1, len(known) // 10))).median())


def _ends(history: pd.DataFrame, steps: pd.DataFrame) -> bool:
    return len(history) > 0 and bool(history["step"].max() < 0.98 * steps["step"].max())


def _holds(table: pd.DataFrame, column: str) -> bool:
    return column in table and bool(table[column].notna().any())


def _mark_steps(axes: Axes, history: pd.DataFrame, most: int = 6) -> None:
    """Labels the horizontal axis, which ends with the history: all panels of a picture have the same."""
    last = max(float(history["step"].max()), 1.0) if len(history) else 1.0
    axes.set_xlim(-0.04 * last, 1.04 * last)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(most, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))


def _series(history: pd.DataFrame, column: str) -> tuple[pd.Series, pd.Series]:
    """Returns the steps and the values of the rows that hold one."""
    known = history.dropna(subset=[column]).sort_values("step", kind="stable")
    return known["step"], known[column]
