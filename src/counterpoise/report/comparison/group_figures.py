"""Figures of groups in a comparison's report: ranking, pairwise tests, and cost."""

from typing import Literal

import numpy as np
import plotly.graph_objects as go

from counterpoise.analysis.comparison import Comparison
from counterpoise.metrics import registry
from counterpoise.names import shorten
from counterpoise.report.comparison.formatting import (
    FAINT_TO_STRONG,
    GAIN,
    behind_best,
    differences,
    folded_all,
    p_value,
    reference_number,
    shown_name,
)
from counterpoise.report.html_page import DEFAULT_HEIGHT


def ranking(comparison: Comparison) -> go.Figure:
    """Return the ranking: mean, 95 % confidence interval, one dot per seed, and the mean of the reference."""
    groups, metric = comparison.groups, comparison.metric
    behind = behind_best(comparison)
    means = np.array([group.scores[metric].mean() for group in groups])
    names = [shown_name(comparison, number) for number in range(len(groups))]
    plot = go.Figure()
    kinds = [(~behind, GAIN, GAIN, "var(--c1-faint)"), (behind, "var(--card)", "var(--muted)", "var(--rule)")]
    for chosen, colour, edge, faint in kinds:
        rows = np.flatnonzero(chosen)
        ends = [group.intervals[metric] for group in (groups[row] for row in rows)]
        x = [value for low, high in ends for value in (round(low, 4), round(high, 4), None)]
        y = [value for row in rows.tolist() for value in (row, row, None)]
        line = {"color": faint, "width": 8}
        plot.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip")
        plot.add_scatter(
            x=np.round(means[rows], 4),
            y=rows,
            mode="markers",
            marker={"color": colour, "size": 12, "line": {"color": edge, "width": 2}},
            customdata=[
                [names[row], round(low, 4), round(high, 4)] for row, (low, high) in zip(rows, ends, strict=True)
            ],
            hovertemplate="%{customdata[0]}<br>mean %{x:.4f}, 95 %: %{customdata[1]:.4f} to %{customdata[2]:.4f}"
            "<extra></extra>",
        )
    seeds = [
        (float(score), row + 0.27, names[row], "?" if seed is None else seed)
        for row, group in enumerate(groups)
        for score, seed in zip(group.scores[metric], group.seeds, strict=True)
    ]
    plot.add_scatter(
        x=[round(seed[0], 4) for seed in seeds],
        y=[seed[1] for seed in seeds],
        yaxis="y2",
        mode="markers",
        marker={"color": "var(--ink)", "size": 5},
        customdata=[seed[2:] for seed in seeds],
        hovertemplate="%{customdata[0]}, seed %{customdata[1]}<br>%{x:.4f}<extra></extra>",
    )
    if len(groups) > 1:
        at = round(float(means[reference_number(comparison)]), 4)
        plot.add_scatter(
            x=[at, at],
            y=[-0.5, len(groups) - 0.5],
            mode="lines",
            line={"color": "var(--muted)", "width": 1, "dash": "dot"},
            hoverinfo="skip",
        )
    drawn = [seed[0] for seed in seeds] + [end for group in groups for end in group.intervals[metric]]
    room = 0.04 * max(max(drawn) - min(drawn), 0.005)
    plot.update_xaxes(title_text=registry.title(metric), range=[min(drawn) - room, max(drawn) + room])
    rows_axis = {"range": [len(groups) - 0.45, -0.55], "tickvals": list(range(len(groups))), "showgrid": False}
    rows_axis |= {"ticklabelstandoff": 6, "fixedrange": True, "tickfont": {"color": "var(--ink)"}}
    plot.update_layout(
        height=60 + 40 * len(groups),
        showlegend=False,
        yaxis={**rows_axis, "ticktext": folded_all(names)},
        yaxis2={**rows_axis, "ticktext": [f"{mean:.3f}" for mean in means], "overlaying": "y", "side": "right"},
    )
    return plot


def matrix(comparison: Comparison) -> go.Figure:
    """Return the matrix of all pairs, best group first.

    Below the diagonal: difference between the column's group and the row's. Above it: adjusted p-value.
    """
    names = [group.name for group in comparison.groups]
    shown = [shown_name(comparison, number) for number in range(len(names))]
    found, size = differences(comparison), len(names)
    lead = np.full((size, size), np.nan)
    texts: dict[bool, list[tuple[int, int, str]]] = {True: [], False: []}
    hovers = [[""] * size for _ in names]
    for row in range(size):
        for column in range(size):
            if row == column:
                continue
            ahead, behind = (column, row) if column < row else (row, column)
            pair = found[names[ahead], names[behind]]
            if column < row:
                lead[row, column] = round(max(pair.difference, 0.0), 4) if pair.significant else 0
                text = f"{pair.difference:z.3f}"
            else:
                text = p_value(pair.p_adjusted).replace("0.", ".").replace(" ", "")
            texts[pair.significant].append((column, row, text))
            hovers[row][column] = (
                f"{shown[ahead]}\nminus {shown[behind]}\n"
                f"difference {pair.difference:.4f} ({pair.low:.4f} to {pair.high:.4f})\n"
                f"adjusted p {p_value(pair.p_adjusted)}: {'significant' if pair.significant else 'not significant'}"
            )
    plot = go.Figure(
        go.Heatmap(
            z=lead,
            colorscale=FAINT_TO_STRONG,
            zmin=0,
            zmax=max(float(np.nan_to_num(lead).max()), 1e-4),
            showscale=False,
            hoverongaps=False,
            xgap=2,
            ygap=2,
            hoverinfo="skip",
        )
    )
    for is_significant, colour in ((True, "var(--ink)"), (False, "var(--muted)")):
        cells = texts[is_significant]
        plot.add_scatter(
            x=[column for column, _, _ in cells],
            y=[row for _, row, _ in cells],
            text=[text for _, _, text in cells],
            mode="text",
            textfont={"color": colour, "size": 12 if size <= 10 else 10.5},
            customdata=[hovers[row][column] for column, row, _ in cells],
            hovertemplate="%{customdata}<extra></extra>",
            showlegend=False,
        )
    numbered = size > 8
    axis = {"tickvals": list(range(size)), "showgrid": False, "fixedrange": True}
    axis |= {"tickfont": {"color": "var(--ink)"}, "ticklabelstandoff": 4}
    row_names = [f"{number + 1}  " * numbered + name for number, name in enumerate(folded_all(shown))]
    column_names = [str(number + 1) for number in range(size)] if numbered else folded_all(shown, 13)
    plot.update_layout(
        height=90 + (32 if numbered else 46) * size,
        xaxis={**axis, "ticktext": column_names, "range": [-0.5, size - 0.5], "side": "top", "tickangle": 0},
        yaxis={**axis, "ticktext": row_names, "range": [size - 0.5, -0.5]},
    )
    return plot


def matrix_width(comparison: Comparison) -> int:
    """Return the minimum width of `matrix` in pixels; narrower pages scroll."""
    size = len(comparison.groups)
    names = [shown_name(comparison, number) for number in range(size)]
    # About 7 px per character of the row names, and of the column names, which are numbers from 9 groups on.
    rows, columns = (
        max(len(line) for name in folded_all(names, width) for line in name.split("\n")) for width in (22, 13)
    )
    return 40 + 7 * rows + (40 if size > 8 else max(44, 7 * columns)) * size


def cost(comparison: Comparison, by: Literal["seconds", "steps"]) -> go.Figure:
    """Return the metric against the cost of a run, with a line through the Pareto-optimal groups.

    Groups of unknown cost are omitted.
    """
    numbers, x, y, front = _costs(comparison, by)
    names = [shown_name(comparison, number) for number in numbers]
    rest = [number for number in range(len(numbers)) if number not in front]
    plot = go.Figure()
    hover = "%{customdata}<br>%{x:,} " + by + "<br>" + registry.title(comparison.metric) + " %{y:.4f}<extra></extra>"
    line = {"color": "var(--c1-faint)", "width": 3, "shape": "hv"}
    plot.add_scatter(
        x=x[front].tolist(), y=y[front].tolist(), mode="lines", line=line, hoverinfo="skip", showlegend=False
    )
    reference = reference_number(comparison)
    for chosen, colour, place, meaning in (
        (front, GAIN, "top center", "Pareto-optimal"),
        (rest, "var(--muted)", "bottom center", "not Pareto-optimal"),
    ):
        labelled = [number for number in chosen if len(chosen) <= 8 or numbers[number] == reference]
        if chosen:
            plot.add_scatter(
                x=x[chosen].tolist(),
                y=y[chosen].tolist(),
                mode="markers+text",
                text=[shorten(names[number], 24) if number in labelled else "" for number in chosen],
                textposition=place,
                textfont={"color": "var(--ink)" if chosen is front else "var(--muted)"},
                marker={"color": colour, "size": 11, "line": {"color": "var(--card)", "width": 1.5}},
                customdata=[names[number] for number in chosen],
                hovertemplate=hover,
                cliponaxis=False,
                name=meaning,
            )
    wide = bool(x.max() > 20 * x.min() > 0)
    scale = np.log10(x) if wide else x
    margin = 0.25 * max(float(np.ptp(scale)), 0.04 * float(np.abs(scale).max()), 1e-3)
    left = float(scale.min()) - margin
    room = 0.12 * max(float(np.ptp(y)), 0.01)
    plot.update_layout(
        height=DEFAULT_HEIGHT + 20,
        xaxis={
            "type": "log" if wide else "linear",
            "range": [left if wide else max(left, 0), float(scale.max()) + margin],
            "tickformat": ",",
            "title": {"text": {"seconds": "seconds per run", "steps": "optimizer steps per run"}[by]},
        },
        yaxis={
            "range": [float(y.min()) - room, float(y.max()) + room],
            "title": {"text": registry.title(comparison.metric)},
        },
    )
    return plot


def describe_cost(comparison: Comparison, by: Literal["seconds", "steps"]) -> tuple[str, str]:
    """Return the Pareto-optimal groups and the other groups, each as text; the second is empty if there are none."""
    numbers, x, y, front = _costs(comparison, by)
    texts = [f"{shown_name(comparison, n)} ({a:,.0f}, {b:.3f})" for n, a, b in zip(numbers, x, y, strict=True)]
    beaten = [each for place, each in enumerate(texts) if place not in front]
    words = f"Pareto-optimal by {by}: {', '.join(texts[place] for place in front)}."
    return words, f" Others: {', '.join(beaten)}." if beaten else ""


def _costs(
    comparison: Comparison, by: Literal["seconds", "steps"]
) -> tuple[list[int], np.ndarray, np.ndarray, list[int]]:
    """Return the groups of known cost, their costs and scores, and which are Pareto-optimal, sorted by cost."""
    numbers = [number for number, group in enumerate(comparison.groups) if np.isfinite(getattr(group, by))]
    x = np.round([getattr(comparison.groups[number], by) for number in numbers], 1)
    y = np.round([comparison.groups[number].scores[comparison.metric].mean() for number in numbers], 4)
    order = np.lexsort((-y, x))
    return numbers, x, y, [int(n) for place, n in enumerate(order) if place == 0 or y[n] > y[order[:place]].max()]
