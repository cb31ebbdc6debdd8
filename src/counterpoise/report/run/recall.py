"""Panel of the scores of each class against its training count."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from counterpoise.report.count_axis import bucket_spans, log_count_axis, positions
from counterpoise.report.html_page import Panel, data, figure, render, table
from counterpoise.training.results import RunResults

MARGIN = 1.3
"""Factor by which the axis extends beyond the counts."""


def recall_panel(results: RunResults) -> Panel:
    """Return the panel of recall against training count. The reader can choose other scores."""
    rows = results.table.assign(bucket=results.buckets)
    rows[results.noun] = results.labels
    rows = rows[rows.test_count > 0]
    measures = [name for name in ("recall", "precision", "f1", "average_precision") if name in rows]
    test = results.metrics["test"]
    means = [f"{name} {test[f'{name}_recall']:.2f}" for name in ("head", "medium", "tail") if f"{name}_recall" in test]
    note = f"Each point is a {results.noun}; its size grows with the number of test examples. Mean recall: "
    note += f"{', '.join(means)}."
    absent = int((results.table.test_count == 0).sum())
    note += f" Not shown: {absent:,} without test examples." if absent else ""
    description = f"Recall of each {results.noun} against its training count. {note}"
    body = render(
        "run/recall.html",
        noun=results.noun,
        measures=measures,
        labels=rows[results.noun].tolist(),
        data=data(
            "recall-data",
            {name: rows[name].to_numpy() for name in measures} | {"label": rows[results.noun].tolist()},
        ),
        plot=figure("recall-plot", _plot(rows, results), description),
        table=_table(rows, measures, results),
        summary=f"Numbers of all {len(rows):,} {results.nouns}",
    )
    return Panel("recall", "Recall by training count", note, body)


def _plot(rows: pd.DataFrame, results: RunResults) -> go.Figure:
    many = len(rows) > 150
    counts = rows.train_count.to_numpy()
    x = positions(counts)
    if many:  # Spread classes with equal counts horizontally so that they remain visible.
        x *= 1.09 ** (np.random.default_rng(0).random(len(rows)) - 0.5)
    tip = (
        "%{customdata[0]}<br>%{customdata[1]:,} training, %{customdata[2]:,} test examples<br>"
        "recall %{customdata[3]:.3f}, precision %{customdata[4]:.3f}, F1 %{customdata[5]:.3f}<extra></extra>"
    )
    size = np.clip(4 + 1.6 * np.sqrt(rows.test_count), 5, 22) * (0.7 if many else 1)
    plot = go.Figure()
    plot.add_scatter(
        x=x, y=rows.recall, mode="markers", hovertemplate=tip, name=f"one {results.noun}",
        customdata=rows[[results.noun, "train_count", "test_count", "recall", "precision", "f1"]].to_numpy(object),
        marker={"size": size, "color": "var(--c1)", "opacity": 0.5, "line": {"width": 0}},
    )  # fmt: skip
    plot.add_scatter(
        x=[], y=[], mode="lines+markers", name="mean of similar counts", hoverinfo="skip",
        line={"color": "var(--c2)", "width": 2.5}, marker={"size": 7},
    )  # fmt: skip
    plot.add_scatter(
        x=[], y=[], mode="markers+text", showlegend=False, hoverinfo="skip", textposition="top center",
        marker={"size": 16, "color": "rgba(0,0,0,0)", "line": {"color": "var(--ink)", "width": 2}},
    )  # fmt: skip
    spans = bucket_spans(counts, results.bounds, MARGIN)
    for _, left, _ in spans[1:]:
        plot.add_vline(left, line={"color": "var(--faint)", "width": 1, "dash": "dot"})
    for name, left, right in spans:
        middle = np.log10(left * right) / 2
        plot.add_annotation(x=middle, y=1.07, text=name, showarrow=False, font={"color": "var(--muted)"})
    plot.update_xaxes(
        title=f"training examples of the {results.noun}, log scale", showgrid=False, **log_count_axis(counts, MARGIN)
    )
    plot.update_yaxes(range=[-0.03, 1.12], title="recall", tickvals=[0, 0.2, 0.4, 0.6, 0.8, 1])
    plot.update_layout(height=430)
    return plot


def _table(rows: pd.DataFrame, measures: list[str], results: RunResults) -> str:
    names = {"train_count": "train", "test_count": "test", "average_precision": "average precision", "f1": "F1"}
    shown = rows[[results.noun, "bucket", "train_count", "test_count", *measures]]
    shown = shown.sort_values("train_count", ascending=False, kind="stable").rename(columns=names)
    formats = dict.fromkeys(("train", "test"), ",d")
    formats |= {names.get(name, name): ".3f" for name in measures}
    return table(shown, formats, f"Scores of each {results.noun} on the test split")
