"""Heat map of a grid: the mean score of groups that differ in two numbers, such as alpha and beta."""

from itertools import product

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from counterpoise.analysis.comparison import Comparison
from counterpoise.metrics import registry
from counterpoise.report.comparison.formatting import FAINT_TO_STRONG
from counterpoise.report.html_page import Panel, figure, render

ALPHA, BETA = "strategy.sampler.alpha", "strategy.weights.beta"
"""Keys whose sum is 1 at the full correction; the heat map shows where."""


def grid_panels(comparison: Comparison) -> list[Panel]:
    """Return the panel of the heat map; none if the groups are no grid of two numbers with two values each."""
    found = _grid(comparison)
    if found is None:
        return []
    (across, down), cells = found
    score, seeds = registry.title(comparison.metric), sorted({len(group.seeds) for group in comparison.groups})
    several = seeds[-1] > 1
    note = f"{'Mean ' if several else ''}{score} on the test texts{' over the seeds' if several else ''}."
    line = {across, down} == {ALPHA, BETA}
    if line:
        note += " Dotted: alpha + beta = 1, the full correction."
    note += " The best cell is outlined; the pairwise tests show which differences are significant."
    described = "; ".join(f"{across} {x:g}, {down} {y:g}: {value:.3f}" for (x, y), value in cells.items())
    chart = figure("grid", heat_map(cells, across, down, score, line), f"{note} {described}")
    width = 160 + 70 * len({x for x, _ in cells})
    body: Markup = render("comparison/wide_figure.html", width=width, chart=chart, label="Heat map")
    return [Panel("grid", "Heat map", note, body)]


def _grid(comparison: Comparison) -> tuple[tuple[str, str], dict[tuple[float, float], float]] | None:
    """Return the two keys, and the mean score of each pair of values."""
    keys: tuple[str, ...] | None = None
    cells: dict[tuple[float, float], float] = {}
    for group in comparison.groups:
        if group.baseline:
            continue
        parts = dict(part.lstrip("+").split("=", 1) for part in group.name.split(" ") if "=" in part)
        try:
            values = {key: float(value) for key, value in parts.items()}
        except ValueError:
            return None
        if len(values) != 2 or len(parts) != len(group.name.split(" ")) or keys not in (None, tuple(sorted(values))):
            return None
        keys = tuple(sorted(values))
        cells[values[keys[0]], values[keys[1]]] = float(group.scores[comparison.metric].mean())
    if keys is None or min(len({cell[place] for cell in cells}) for place in (0, 1)) < 2:
        return None
    return (keys[0], keys[1]), cells


def heat_map(
    cells: dict[tuple[float, float], float], across: str, down: str, score: str, full_correction: bool
) -> go.Figure:
    """Return the heat map.

    Args:
        cells: Score by the values of both keys.
        across: Key of the horizontal axis.
        down: Key of the vertical axis.
        score: Name of the score.
        full_correction: Whether to show where the sum of both values is 1.
    """
    columns, rows = (sorted({cell[place] for cell in cells}) for place in (0, 1))
    values = np.array([[cells.get((x, y), np.nan) for x in columns] for y in rows])
    places = [(c, r) for r, c in product(range(len(rows)), range(len(columns))) if np.isfinite(values[r, c])]
    plot = go.Figure(
        go.Heatmap(
            z=np.round(values, 4),
            colorscale=FAINT_TO_STRONG,
            showscale=False,
            hoverongaps=False,
            hoverinfo="skip",
            xgap=2,
            ygap=2,
        )
    )
    plot.add_scatter(
        x=[c for c, _ in places],
        y=[r for _, r in places],
        text=[f"{values[r, c]:.3f}" for c, r in places],
        mode="text",
        textfont={"color": "var(--ink)", "size": 12},
        customdata=[[columns[c], rows[r], round(float(values[r, c]), 4)] for c, r in places],
        hovertemplate=f"{across} %{{customdata[0]}}<br>{down} %{{customdata[1]}}<br>{score} %{{customdata[2]:.4f}}"
        "<extra></extra>",
    )
    if full_correction:
        line = [
            (c, float(np.interp(1 - x, rows, range(len(rows)))))
            for c, x in enumerate(columns)
            if rows[0] <= 1 - x <= rows[-1]
        ]
        plot.add_scatter(
            x=[c for c, _ in line],
            y=[r for _, r in line],
            mode="lines",
            line={"color": "var(--muted)", "width": 1.5, "dash": "dot"},
            hoverinfo="skip",
        )
    best = max(places, key=lambda place: values[place[1], place[0]])
    corners = {"x0": best[0] - 0.48, "x1": best[0] + 0.48, "y0": best[1] - 0.48, "y1": best[1] + 0.48}
    plot.add_shape(type="rect", **corners, line={"color": "var(--ink)", "width": 2})
    axis = {"showgrid": False, "zeroline": False, "fixedrange": True}
    plot.update_layout(
        height=110 + 46 * len(rows),
        showlegend=False,
        xaxis={**axis, "tickvals": list(range(len(columns))), "ticktext": [f"{x:g}" for x in columns]},
        yaxis={**axis, "tickvals": list(range(len(rows))), "ticktext": [f"{y:g}" for y in rows]},
    )
    plot.update_xaxes(title_text=across, range=[-0.5, len(columns) - 0.5])
    plot.update_yaxes(title_text=down, range=[-0.5, len(rows) - 0.5])
    return plot
