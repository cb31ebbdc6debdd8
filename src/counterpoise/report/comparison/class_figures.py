"""Figures of classes and buckets in a comparison's report, and the data for the page's script.

`recall`, `effect` and `effect_axis` have no points: the script draws what the reader chooses.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from counterpoise.analysis.comparison import Comparison
from counterpoise.analysis.comparison_tables import BUCKETS
from counterpoise.analysis.significance import significant
from counterpoise.metrics.buckets import buckets
from counterpoise.report.comparison.formatting import (
    GAIN,
    LOSS,
    UNDECIDED,
    folded_all,
    p_value,
    records,
    reference_number,
    shown_name,
    unit,
)
from counterpoise.report.count_axis import bucket_spans, log_count_axis, positions

MARGIN = 1.3
"""Factor by which the axis of training counts extends beyond the counts."""


def page_data(comparison: Comparison) -> dict[str, Any]:
    """Return the data for the page's script. Arrays of classes follow `classes`, sorted by training count.

    Returns:
        `groups` (names, best first), `reference` (its index), `recall`, `f1`, `difference`, `low`, `high` ([G, C], four
        decimals), `place` (x position of each class), and names and counts.
    """
    names = [group.name for group in comparison.groups]
    order = np.lexsort((np.array(comparison.labels), -np.asarray(comparison.counts)))
    labels = [comparison.labels[number] for number in order]
    counts = np.asarray(comparison.counts)[order]
    columns = {"recall": "recall", "f1": "f1", "difference": "recall_difference", "low": "low", "high": "high"}
    by_class = {
        key: np.round(
            comparison.classes.pivot(index="group", columns="class", values=column)
            .reindex(index=names, columns=labels)
            .to_numpy(float),
            4,
        )
        for key, column in columns.items()
    }
    return {
        "unit": unit(comparison),
        "units": unit(comparison, 2),
        "groups": [shown_name(comparison, number) for number in range(len(names))],
        "reference": reference_number(comparison),
        "classes": labels,
        "train": counts,
        "test": np.asarray(comparison.test_counts)[order],
        "bucket": buckets(counts, *comparison.bounds).tolist(),
        "place": np.round(places(counts), 3),
        **by_class,
    }


def places(counts: np.ndarray) -> np.ndarray:
    """Return x positions of classes on a logarithmic axis of training counts, float [C].

    Classes with equal counts are placed side by side, within a third of the distance to the next count. A count of 0
    is placed at 1/2.
    """
    logs = np.log10(positions(counts))
    levels, level, sizes = np.unique(logs, return_inverse=True, return_counts=True)
    gaps = np.diff(levels, prepend=levels[0] - 1, append=levels[-1] + 1)
    reach = np.minimum(np.minimum(gaps[:-1], gaps[1:]) / 3, 0.012 * (sizes - 1))[level]
    rank = np.empty(len(counts))
    for number in range(len(levels)):
        rank[level == number] = np.linspace(-1, 1, sizes[number]) if sizes[number] > 1 else 0
    return 10 ** (logs + rank * reach)


def recall(comparison: Comparison) -> go.Figure:
    """Return recall against training count with the bounds of the buckets.

    Traces (empty): lines of gains, lines of losses, first group, and gains, losses and no change of the second.
    """
    one = unit(comparison)
    hover = (
        "%{customdata[0]}<br>%{customdata[1]:,} training, %{customdata[2]:,} test examples"
        "<br>recall %{customdata[3]:.3f} to %{customdata[4]:.3f}: %{customdata[5]:+.3f}<extra></extra>"
    )
    size = 6 if len(comparison.labels) > 150 else 9
    plot = go.Figure()
    for name, colour in (("gain", GAIN), ("loss", LOSS)):
        line = {"color": colour, "width": 1.2 if size == 6 else 1.8}
        plot.add_scatter(mode="lines", line=line, opacity=0.55, hoverinfo="skip", showlegend=False, meta=name)
    hollow = {"size": size - 1, "color": "var(--card)", "line": {"color": "var(--muted)", "width": 1.3}}
    plot.add_scatter(mode="markers", marker=hollow, hovertemplate=hover, name="from")
    for name, colour in (("gained", GAIN), ("lost", LOSS), ("unchanged", "var(--muted)")):
        marker = {"size": size, "color": colour, "line": {"color": "var(--card)", "width": 1}}
        plot.add_scatter(mode="markers", marker=marker, hovertemplate=hover, name=name)
    plot.update_layout(
        height=460,
        xaxis={
            **log_count_axis(comparison.counts, MARGIN),
            "title": {"text": f"training examples of the {one} (log scale)"},
        },
        yaxis={"range": [-0.04, 1.12], "tickvals": [0, 0.2, 0.4, 0.6, 0.8, 1], "title": {"text": "recall"}},
    )
    spans = bucket_spans(comparison.counts, comparison.bounds, MARGIN)
    for _, border, _ in spans[1:]:
        plot.add_vline(border, line={"color": "var(--faint)", "width": 1, "dash": "dot"}, layer="below")
    for name, left, right in spans:
        if right > left * 1.15:
            middle = float(np.log10(left * right) / 2)
            plot.add_annotation(x=middle, y=1, yref="paper", yanchor="top", text=name, showarrow=False)
    return plot


def effect() -> go.Figure:
    """Return one row per class of the test split with the change in recall and its confidence interval.

    Traces (empty): gains, losses, changes that are not significant, and training counts on the right.
    """
    hover = (
        "%{customdata[0]}<br>%{customdata[1]:,} training, %{customdata[2]:,} test examples"
        "<br>%{x:+.3f} (%{customdata[3]})<extra></extra>"
    )
    plot = go.Figure()
    for name, colour in (("gain", GAIN), ("loss", LOSS), ("not significant", "var(--muted)")):
        bars = {"type": "data", "symmetric": False, "array": [], "arrayminus": [], "thickness": 1.5, "width": 0}
        marker = {"color": colour, "size": 8}
        bars["color"] = UNDECIDED if name == "not significant" else colour
        plot.add_scatter(
            mode="markers", marker=marker, error_x=bars, hovertemplate=hover, name=name, showlegend=False, meta=name
        )
    text = {"color": "var(--muted)", "size": 11.5}
    plot.add_scatter(
        mode="text", textfont=text, textposition="middle right", cliponaxis=False, hoverinfo="skip", showlegend=False
    )
    plot.update_layout(
        xaxis={"showticklabels": False, "fixedrange": True, "zeroline": True, "zerolinecolor": "var(--faint)"},
        yaxis={
            "automargin": False,
            "fixedrange": True,
            "ticklabelstandoff": 6,
            "tickfont": {"color": "var(--ink)", "size": 12},
        },
        dragmode=False,
        height=600,
    )
    return plot


def effect_axis() -> go.Figure:
    """Return the axis of `effect`, which stays visible while the rows scroll."""
    plot = go.Figure(go.Scatter(x=[None], y=[None], mode="markers", showlegend=False))
    plot.add_annotation(
        x=1,
        y=0,
        xref="paper",
        yref="paper",
        text="count",
        showarrow=False,
        xanchor="right",
        yanchor="bottom",
        xshift=46,
    )
    plot.update_layout(
        height=34,
        xaxis={"showgrid": False, "side": "top", "fixedrange": True},
        yaxis={"visible": False, "range": [0, 1], "fixedrange": True},
        dragmode=False,
    )
    return plot


def bucket_effects(comparison: Comparison) -> go.Figure:
    """Return the change in mean recall relative to the reference, one column per bucket, coloured if significant."""
    present = [bucket for bucket in BUCKETS if (comparison.buckets.bucket == bucket).any()]
    rows = {(row["group"], row["bucket"]): row for row in records(comparison.buckets)}
    significant_pairs = significant_buckets(comparison)
    p = {(row["group"], row["metric"]): row["p_adjusted"] for row in records(comparison.effects)}
    others = [number for number, group in enumerate(comparison.groups) if group.name != comparison.reference]
    names = [shown_name(comparison, number) for number in others]
    known = [rows[comparison.groups[number].name, bucket] for number in others for bucket in present]
    ends = np.array([[row["low"], row["high"], row["difference"], 0] for row in known], float).ravel()
    low, high = (float(end) for end in (np.nanmin(ends), np.nanmax(ends)))
    room = 0.06 * max(high - low, 0.01)
    plot = go.Figure()
    for column, bucket in enumerate(present):
        suffix = str(column + 1) if column else ""
        found = [rows[comparison.groups[number].name, bucket] for number in others]
        apart = np.array([(row["group"], bucket) in significant_pairs for row in found])
        p_values = [p_value(p[row["group"], f"{bucket}_recall"]) for row in found]
        plot.add_trace(_bucket_bars(found, names, apart, p_values).update(name=bucket, xaxis=f"x{suffix}"))
        width = 1 / len(present)
        count = int(found[0]["classes"])
        plot.layout[f"xaxis{suffix}"] = {
            "domain": [column * width + 0.02 * (column > 0), (column + 1) * width - 0.02 * (column < len(present) - 1)],
            "range": [low - room, high + room],
            "zeroline": True,
            "zerolinecolor": "var(--muted)",
            "nticks": 5,
            "anchor": "y",
            "fixedrange": True,
        }
        plot.add_annotation(
            x=column * width + 0.02 * (column > 0),
            xref="paper",
            y=1,
            yref="paper",
            xanchor="left",
            yanchor="bottom",
            text=f"{bucket}, {count:,} {unit(comparison, count)}",
            showarrow=False,
            font={"color": "var(--ink)", "size": 13},
        )
    plot.update_layout(
        height=90 + 34 * max(len(others), 2),
        margin={"l": 8, "r": 12, "t": 30, "b": 8},
        bargap=0.45,
        yaxis={
            "range": [len(others) - 0.4, -0.6],
            "tickvals": list(range(len(others))),
            "ticktext": folded_all(names),
            "tickfont": {"color": "var(--ink)"},
            "ticklabelstandoff": 6,
            "showgrid": False,
            "fixedrange": True,
        },
    )
    return plot


def _bucket_bars(
    rows: Sequence[dict[str, Any]], names: Sequence[str], is_significant: np.ndarray, p_values: Sequence[str]
) -> go.Bar:
    """Return the bars of a bucket, one per group.

    Args:
        rows: Change in mean recall of G groups, from `Comparison.buckets`.
        names: Shown names of the groups.
        is_significant: Whether each change is significant, bool [G].
        p_values: Adjusted p-values as text.
    """
    values = np.round([row["difference"] for row in rows], 4)
    over, under = is_significant & (values > 0), is_significant & (values < 0)
    return go.Bar(
        orientation="h",
        x=values,
        y=list(range(len(rows))),
        showlegend=False,
        marker={
            "color": np.select([over, under], ["var(--c1-faint)", "var(--c2-faint)"], "var(--grid)").tolist(),
            "line": {"color": np.select([over, under], [GAIN, LOSS], UNDECIDED).tolist(), "width": 1},
        },
        error_x={
            "type": "data",
            "symmetric": False,
            "array": np.round([row["high"] - row["difference"] for row in rows], 4),
            "arrayminus": np.round([row["difference"] - row["low"] for row in rows], 4),
            "color": "var(--ink)",
            "thickness": 1.3,
            "width": 3,
        },
        customdata=[
            [name, round(row["recall"], 4), round(row["low"], 4), round(row["high"], 4), p]
            for name, row, p in zip(names, rows, p_values, strict=True)
        ],
        hovertemplate="%{customdata[0]}<br>%{x:+.4f} (%{customdata[2]:+.4f} to %{customdata[3]:+.4f})"
        "<br>mean recall %{customdata[1]:.4f}<br>adjusted p %{customdata[4]}<extra></extra>",
    )


def significant_buckets(comparison: Comparison) -> set[tuple[str, str]]:
    """Return pairs of group and bucket whose mean recall differs significantly from the reference."""
    rows = records(comparison.effects[significant(comparison.effects)])
    found = {(row["group"], row["metric"]) for row in rows}
    return {(group, bucket) for group, metric in found for bucket in BUCKETS if metric == f"{bucket}_recall"}


def bucket_width(comparison: Comparison) -> int:
    """Return the minimum width of `bucket_effects` in pixels; narrower pages scroll."""
    return 170 + 130 * comparison.buckets.bucket.nunique()
