"""Panel of the data: text lengths, splits, data warnings, and classes that are too rare to evaluate."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from counterpoise.data.quality import MIN_TEST_EXAMPLES
from counterpoise.data.text_lengths import length_percentiles, truncated_fraction
from counterpoise.report.html_page import Panel, figure, render, table
from counterpoise.training.results import RunResults, one_hot


def data_panel(results: RunResults) -> Panel:
    """Return the panel of the data."""
    chunks = results.setting("encoder", "long_texts") == "chunk"
    read = f"the {results.max_length} tokens of encoder.max_chunks={results.setting('encoder', 'max_chunks')}"
    limit = read if chunks else f"encoder.max_length={results.max_length}"
    truncated = truncated_fraction(results.lengths, results.max_length)
    note = f"The median training text has {length_percentiles(results.lengths)['median']:,} tokens; "
    if truncated:
        note += f"{truncated:.1%} are longer than {limit} and were truncated."
    else:
        note += f"none is longer than {limit}."
    test = results.table.test_count.to_numpy()
    rare = np.flatnonzero(test < MIN_TEST_EXAMPLES)
    rows = pd.DataFrame(
        {
            results.noun: [results.labels[c] for c in rare],
            "train": results.counts[rare],
            "validation": one_hot(results.validation_targets, len(test)).getnnz(axis=0)[rare],
            "test": test[rare],
        }
    )
    counts = dict.fromkeys(("train", "validation", "test"), ",d")
    caption = (
        f"{results.nouns.capitalize()} with fewer than {MIN_TEST_EXAMPLES} test texts: their own scores are unreliable"
    )
    body = render(
        "run/data.html",
        lengths=figure("lengths-plot", _lengths(results), "Histogram of the number of tokens of training texts"),
        splits=table(_splits(results), dict.fromkeys(("texts", "unseen"), ",d"), "Splits"),
        warnings=results.data_warnings,
        rare=table(rows, counts, caption) if len(rare) else "",
        summary=f"{len(rare):,} of {len(test):,} {results.nouns} have fewer than {MIN_TEST_EXAMPLES} test texts",
    )
    return Panel("data", "Data", note, body)


def _lengths(results: RunResults) -> go.Figure:
    longest = int(results.lengths.max(initial=1))
    # A few very long texts would make all other bars narrow: the last bar holds them.
    end = max(length_percentiles(results.lengths)["99%"], results.max_length, 1)
    shown = min(longest, end)
    width = max(1, -(-shown // 60))
    edges = np.arange(shown + 0.5, -width, -width)[::-1]
    lasts = np.append(edges[1:-1] - 0.5, longest)
    plot = go.Figure(
        go.Bar(
            x=edges[:-1] + width / 2,
            y=np.histogram(results.lengths.clip(max=shown), edges)[0],
            width=width * 0.92,
            marker={"color": "var(--c1)"},
            customdata=np.column_stack([np.maximum(edges[:-1] + 0.5, 0), lasts]),
            hovertemplate="%{customdata[0]} to %{customdata[1]} tokens: %{y:,} texts<extra></extra>",
        )
    )
    plot.add_vline(results.max_length + 0.5, line={"color": "var(--c2)", "width": 2, "dash": "dash"})
    truncated = f"{fraction:.1%}" if (fraction := truncated_fraction(results.lengths, results.max_length)) else "none"
    plot.add_annotation(
        x=results.max_length, y=1, yref="paper", text=f"{results.max_length} tokens are read: {truncated} truncated",
        showarrow=False, xanchor="right", xshift=-6, yanchor="bottom", font={"color": "var(--c2)"},
    )  # fmt: skip
    plot.update_layout(height=280, showlegend=False, bargap=0, margin={"l": 8, "r": 12, "t": 30, "b": 8})
    plot.update_xaxes(title="tokens of a training text", showgrid=False, range=[0, end * 1.02])
    plot.update_yaxes(title="texts")
    return plot


def _splits(results: RunResults) -> pd.DataFrame:
    """Return sizes of the splits, examples with labels unseen in training, and rows that were dropped."""
    rows: list[dict[str, Any]] = []
    counted: list[tuple[str, Any]] = []
    for name, part in results.metrics.get("data", {}).items():
        counts = part.get("dropped", {})
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
        # Splits of one file have the counts of that file: show them once.
        first = next((other for other, known in counted if known == counts and not results.setting("data", name)), "")
        if dropped and first:
            dropped = f"included in {first}"
        counted.append((name, counts))
        rows.append(
            {"split": name, "texts": part["examples"], "unseen": part.get("unseen", 0), "dropped": dropped or "–"}
        )
    return pd.DataFrame(rows, columns=["split", "texts", "unseen", "dropped"])
