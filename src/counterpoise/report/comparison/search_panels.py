"""Panels of a search of hyperparameters: the values of all trials, and the importance of the parameters."""

import math
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from counterpoise.analysis.search_results import SearchResults, Trial
from counterpoise.metrics import registry
from counterpoise.report.comparison.formatting import folded
from counterpoise.report.html_page import Panel, figure, render, table

BEST = 0.1
"""Fraction of the finished trials that is highlighted."""
AXIS_WIDTH = 150
"""Width of a parallel axis, in pixels."""


def search_panels(search: SearchResults) -> list[Panel]:
    """Return the panels of a search; none without a finished trial."""
    if not search.finished:
        return []
    return [_trials(search), *([_importance(search)] if search.importances else [])]


def _trials(search: SearchResults) -> Panel:
    best = search.finished[0]
    keys = list(best.values)
    score = _score_title(search)
    values = ", ".join(f"{key} = {value}" for key, value in best.values.items())
    note = (
        f"Each line is a trial: its values, and its {score} on the right. The score of the best of many trials is "
        "optimistic. The test scores below are not, as long as no trial is chosen by them. "
        f"Best: trial {best.number} with {best.value:.4f} ({values})."
    )
    shown = [
        {"trial": trial.number, "state": trial.state, score: trial.value, **dict(trial.values)}
        for trial in [*search.finished, *(each for each in search.trials if each.state != "finished")]
    ]
    counts = pd.Series([trial.state for trial in search.trials]).value_counts()
    caption = f"{len(shown):,} trials: {', '.join(f'{count} {state}' for state, count in counts.items())}"
    listed = table(pd.DataFrame(shown), {score: ".4f"}, caption)
    body = render(
        "comparison/search.html",
        width=AXIS_WIDTH * (len(keys) + 1),
        key=render(
            "comparison/color_key.html",
            entries=[("gain", f"best {BEST:.0%} of the finished trials"), ("chance", "other finished trials")],
        ),
        chart=figure("search", parallel_coordinates(search), f"Values and {score} of each trial. {note}"),
        table=listed,
    )
    return Panel("search", "Search", note, body)


def _score_title(search: SearchResults) -> str:
    return f"validation {registry.title(search.metric.removeprefix('val/'))}"


def parallel_coordinates(search: SearchResults) -> go.Figure:
    """Return one line for each finished trial over parallel axes, one for each parameter and one for the score.

    It is drawn with plain lines: plotly's own parallel coordinates need WebGL and scripts that the page forbids.
    """
    trials = search.finished
    keys = list(trials[0].values)
    columns = [
        *(_Axis(key, [trial.values[key] for trial in trials], key in search.logarithmic) for key in keys),
        _Axis(_score_title(search), [trial.value for trial in trials], False),
    ]
    number = max(1, math.ceil(BEST * len(trials)))
    plot = go.Figure()
    # The best trials are drawn last, above the others.
    for rows, colour, width in ((range(number, len(trials)), "var(--faint)", 1), (range(number), "var(--c1)", 2)):
        x: list[float | None] = []
        y: list[float | None] = []
        hover: list[list[str]] = []
        for row in rows:
            x += [*range(len(columns)), None]
            y += [*(round(axis.places[row], 4) for axis in columns), None]
            hover += [*([_description(trials[row])] for _ in columns), [""]]
        plot.add_scatter(
            x=x,
            y=y,
            mode="lines+markers",
            line={"color": colour, "width": width},
            marker={"color": colour, "size": 4 + width},
            customdata=hover,
            hovertemplate="%{customdata[0]}<extra></extra>",
        )
    for place, axis in enumerate(columns):
        plot.add_shape(type="line", x0=place, x1=place, y0=0, y1=1, line={"color": "var(--muted)", "width": 1})
        for height, text in axis.ticks:
            plot.add_annotation(
                x=place, y=height, text=text, showarrow=False, xanchor="left", xshift=5, font={"size": 11}
            )
    plot.update_xaxes(
        tickvals=list(range(len(columns))),
        ticktext=[folded(axis.name) for axis in columns],
        range=[-0.5, len(columns) - 0.5],
        showgrid=False,
        zeroline=False,
        fixedrange=True,
    )
    plot.update_yaxes(visible=False, range=[-0.06, 1.06], fixedrange=True)
    plot.update_layout(height=420, showlegend=False)
    return plot


def _description(trial: Trial) -> str:
    lines = [f"trial {trial.number}: {trial.value:.4f}", *(f"{key} = {value}" for key, value in trial.values.items())]
    return "\n".join(lines)


class _Axis:
    """One of the parallel axes.

    Args:
        name: Name of the axis.
        values: Value of each trial, a number or text.
        logarithmic: Whether the scale is logarithmic.
    """

    def __init__(self, name: str, values: Sequence[object], logarithmic: bool) -> None:
        self.name = name
        if all(isinstance(value, int | float) for value in values):
            numbers = [float(value) for value in values]  # type: ignore[arg-type]
            low, high = min(numbers), max(numbers)
            scaled = [math.log(number) for number in numbers] if logarithmic else numbers
            start, span = min(scaled), max(scaled) - min(scaled)
            self.places = [(number - start) / span if span else 0.5 for number in scaled]
            self.ticks = [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")] if span else [(0.5, f"{low:.3g}")]
        else:
            options = sorted(map(str, set(values)))
            room = max(1, len(options) - 1)
            heights = {option: place / room if len(options) > 1 else 0.5 for place, option in enumerate(options)}
            self.places = [heights[str(value)] for value in values]
            self.ticks = [(height, option) for option, height in heights.items()]


def _importance(search: SearchResults) -> Panel:
    shares = dict(sorted(search.importances.items(), key=lambda item: item[1]))
    plot = go.Figure(
        go.Bar(
            x=[round(share, 4) for share in shares.values()],
            y=[folded(key) for key in shares],
            orientation="h",
            marker={"color": "var(--c1)"},
            text=[f"{share:.2f}" for share in shares.values()],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        )
    )
    plot.update_xaxes(range=[0, 1.12 * max(shares.values())], title_text="share of the variance of the score")
    plot.update_yaxes(showgrid=False, fixedrange=True)
    plot.update_layout(height=90 + 36 * len(shares), showlegend=False)
    listed = "; ".join(f"{key} {share:.2f}" for key, share in reversed(shares.items()))
    note = (
        f"Share of each parameter in the variance of the {_score_title(search)} over the search space (functional "
        "ANOVA on a random forest of the finished trials). With few trials these shares are uncertain."
    )
    return Panel("importance", "Importance of the parameters", note, figure("importance", plot, listed))
