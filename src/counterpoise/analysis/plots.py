"""Figures that no HTML page draws, as PNG files: recall by training count, and loss and gradient norm by step.

Each function writes one figure and replaces the file atomically. Figures do not use pyplot, so that no global state
changes and several threads can draw.
"""

from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from counterpoise.analysis import plot_style
from counterpoise.analysis.plot_style import COLOURS, FAINT, INK, MUTED, PAPER
from counterpoise.names import shorten_all

_GRADIENT = "train/grad_norm"
_CROWD = 150
_LEGEND_WIDTH = 60
"""Characters of the names in a row of a legend beside the title."""
_NAME_WIDTH = 90
"""Characters of a name in a legend."""


def recall_vs_count(
    path: str | Path,
    runs: dict[str, tuple[np.ndarray, np.ndarray]],
    tail_max: int = 20,
    head_min: int = 101,
    unit: str = "class",
) -> None:
    """Draw the recall of each class over its training count, and the mean over classes of similar count.

    Args:
        path: File to write.
        runs: By name, training counts int [C] and recall float [C], NaN for absent classes. Means are over geometric
            bins, two per decade.
        tail_max: Bound of the tail, as in `metrics.buckets`.
        head_min: Bound of the head.
        unit: "class" or "label", for the captions. With more than 150 classes points are smaller, coinciding points
            are merged into a larger one, and runs are drawn side by side.
    """
    figure = Figure(figsize=(9, 4.9), layout="constrained")
    axes = figure.add_subplot()
    plot_style.axes(axes, grid="y")
    # The axis is logarithmic: a class without training examples is drawn at 1/2 and labelled 0.
    places = {name: np.maximum(counts, 0.5).astype(float) for name, (counts, _) in runs.items()}
    low = min((float(x.min()) for x in places.values()), default=1.0)
    high = max((float(x.max()) for x in places.values()), default=1.0)
    names = dict(zip(runs, shorten_all(tuple(runs), _NAME_WIDTH), strict=True))
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
            np.exp(means.x), means.y, color=colour, linewidth=2.6, label=plot_style.plain(names[name]), zorder=3
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
        columns = min(len(runs), 4)
        if max(map(len, names.values())) * columns <= _LEGEND_WIDTH:
            plot_style.legend(axes, loc="lower right", bbox_to_anchor=(1, 1.12), borderaxespad=0, ncols=columns)
        else:
            plot_style.legend(axes, loc="upper left", bbox_to_anchor=(0, -0.16), borderaxespad=0, ncols=1)
    sized = ", larger where several coincide" if crowd else ""
    plot_style.title(axes, "Recall by training count", f"a point is a {unit}{sized}; a line is their mean", above=22)
    plot_style.save(figure, path)


def count_marks(low: float, high: float, room: float) -> tuple[list[float], list[str]]:
    """Return tick positions and labels of a logarithmic axis of counts.

    Args:
        low: Smallest count on the axis.
        high: Largest count on the axis.
        room: Factor by which the axis extends beyond both.

    Returns:
        Ticks at 1, 3, 10, 30 and so on; at `low` and `high` if the axis holds none of them. A count of 0 is
        drawn at 1/2.
    """
    marks = [0.5, *(digit * 10.0**power for power in range(9) for digit in (1, 3))]
    ends = [low, high] if high > 1.05 * low else [low]
    marks = [mark for mark in marks if low / room <= mark <= high * room] or ends
    return marks, [f"{mark:,.0f}" if mark > 0.5 else "0" for mark in marks]


def loss_and_gradients(path: str | Path, histories: dict[str, pd.DataFrame]) -> None:
    """Draw training loss (left) and gradient norm (right) of several runs by step, both on a log scale.

    Losses with different weights are not comparable, so each is divided by its start: the median of its first tenth, at
    most ten values. Bold lines are running medians over a twentieth of the run. Values that are not finite leave a gap.
    A cross marks a run that ends before the others.

    Args:
        path: File to write.
        histories: By name, the `metrics.csv` of Lightning's CSVLogger with the column `step` and, both optional and
            sparse, the training loss and `train/grad_norm`.
    """
    figure = Figure(figsize=(11, 4.7), layout="constrained")
    losses, norms = figure.subplots(1, 2)
    steps = pd.DataFrame({"step": [history["step"].max() for history in histories.values() if len(history)]})
    for (name, history), colour in zip(histories.items(), cycle(COLOURS), strict=False):
        ended_early = _ended_early(history, steps)
        losses.plot([], [], color=colour, linewidth=2.4, label=plot_style.plain(name))
        train = _train_loss(history)
        if train is not None:
            x, y = _series(history, train)
            _trace(losses, x, y / _start(y), colour, ended_early)
        if _holds(history, _GRADIENT):
            _trace(norms, *_series(history, _GRADIENT), colour, ended_early)
    crosses = "; a cross: ended early" if any(_ended_early(each, steps) for each in histories.values()) else ""
    for axes, title, explanation in (
        (losses, "Training loss", f"relative to each run's start{crosses}"),
        (norms, "Gradient norm", "before clipping"),
    ):
        plot_style.axes(axes, grid="y")
        plot_style.title(axes, title, explanation)
        _step_axis(axes, steps)
        if any(np.isfinite(line.get_ydata()).any() for line in axes.lines):
            plot_style.log_scale(axes)
        else:
            plot_style.write_placeholder(axes, "nothing measured")
    if losses.get_yscale() == "log":
        losses.axhline(1, color=FAINT, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
    if histories:
        handles, labels = losses.get_legend_handles_labels()
        columns = min(len(histories), 4)
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=10)
        for text in legend.get_texts():
            text.set_color(INK)
    plot_style.save(figure, path)


def _mark_buckets(axes: Axes, tail_max: int, head_min: int) -> None:
    """Draw the bounds and names of the buckets on a logarithmic axis of counts."""
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


def _trace(axes: Axes, x: pd.Series, y: pd.Series, colour: str, ended_early: bool = False) -> None:
    """Draw positive values faintly and their running median in bold, with a cross at the end if `ended_early`."""
    y = y.where(np.isfinite(y) & (y > 0))
    smooth = y.rolling(max(1, len(y) // 20), center=True, min_periods=1).median().where(y.notna())
    axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.9, zorder=2)
    (line,) = axes.plot(x, smooth, _line_style(y), color=colour, linewidth=2.2, zorder=3)
    line.set_path_effects([withStroke(linewidth=3.6, foreground=PAPER)])
    last = smooth.last_valid_index()
    if ended_early and last is not None:
        axes.plot(x[last], smooth[last], "X", color=colour, markersize=9, markeredgecolor=PAPER, zorder=4)


def _line_style(y: pd.Series) -> str:
    """Return a line style with a marker if there is a single value, which a line would not show."""
    return "o-" if y.count() == 1 else "-"


def _train_loss(history: pd.DataFrame) -> str | None:
    """Return the column of the training loss, per step if available."""
    return next((c for c in ("train/loss", "train/loss_step", "train/loss_epoch") if _holds(history, c)), None)


def _start(y: pd.Series) -> float:
    """Return the median of the first tenth of the finite values, at most ten."""
    known = y[np.isfinite(y)]
    return float(known.head(min(10, max(1, len(known) // 10))).median())


def _ended_early(history: pd.DataFrame, steps: pd.DataFrame) -> bool:
    return len(history) > 0 and bool(history["step"].max() < 0.98 * steps["step"].max())


def _holds(table: pd.DataFrame, column: str) -> bool:
    return column in table and bool(table[column].notna().any())


def _step_axis(axes: Axes, history: pd.DataFrame, most: int = 6) -> None:
    """Set limits and ticks of the horizontal axis, the same for all panels."""
    last = max(float(history["step"].max()), 1.0) if len(history) else 1.0
    axes.set_xlim(-0.04 * last, 1.04 * last)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(most, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))


def _series(history: pd.DataFrame, column: str) -> tuple[pd.Series, pd.Series]:
    """Return the steps and the values of the rows with a value."""
    known = history.dropna(subset=[column]).sort_values("step", kind="stable")
    return known["step"], known[column]
