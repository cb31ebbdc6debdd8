"""Panel of the correction: sampling, class weights and effective prior of each class."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from counterpoise.report.count_axis import log_ticks
from counterpoise.report.html_page import Panel, figure, format_factor, render, table
from counterpoise.training.results import RunResults

LOSSES = {
    "focal": "focal loss, which gives less weight to well-classified examples",
    "LogitAdjusted": "logit-adjusted loss, which requires a larger margin for rare classes",
    "LDAM": "LDAM loss, whose margins are wider for rarer classes",
    "Asymmetric": "asymmetric loss, which gives little weight to easy negatives",
    "DistributionBalanced": "distribution-balanced loss",
}
SECOND_STAGES = {
    "PostHoc": "subtracted the log prior from the logits",
    "TauNormalised": "normalised the norms of the head's weights",
    "Retrained": "trained a new head on the encoder's embeddings with its own sampler",
}


def strategy_panel(results: RunResults) -> Panel:
    """Return the panel of what the strategy did to each class."""
    rows = _table(results)
    formats = {
        "examples": ",d",
        "draws per epoch": ",.1f",
        "draws per example": ",.2f",
        "instance weight": ",.3f",
        "class weight": ",.3f",
        "negative weight": ",.3f",
        "share of examples": ".3%",
        "effective prior": ".3%",
    }
    expandable = render(
        "shared/expandable.html",
        summary=f"Numbers of all {len(rows):,} {results.nouns}",
        body=table(rows, formats, f"{results.nouns.capitalize()} by training count"),
    )
    description = "Share of examples, effective prior, draws per example and class weight of each class"
    note = f"{describe_strategy(results)} Where the two lines of the upper plot meet, training follows the data."
    body = figure("balance-plot", _plot(rows, results), description) + expandable
    return Panel("strategy", "What the strategy did", note, body)


def _table(results: RunResults) -> pd.DataFrame:
    """Return one row per class, from the most frequent to the rarest."""
    correction = results.correction
    weighted = (correction.instance_weights != 1).any()
    rows = pd.DataFrame(
        {
            results.noun: np.array(results.labels, object),
            "examples": results.counts,
            "draws per epoch": correction.expected_class_counts,
            "draws per example": correction.draws_per_example,
            **({"instance weight": correction.instance_weights} if weighted else {}),
            "class weight": correction.class_weights,
            **({"negative weight": correction.negative_weights} if results.multi_label else {}),
            "share of examples": results.counts / max(results.counts.sum(), 1),
            "effective prior": results.effective_prior / results.effective_prior.sum(),
        }
    )
    return rows.iloc[np.argsort(-results.counts, kind="stable")]


def _plot(rows: pd.DataFrame, results: RunResults) -> go.Figure:
    ranks = np.arange(1, len(rows) + 1)
    plot = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.07, row_heights=[0.6, 0.4])
    hover = np.column_stack([rows[results.noun].to_numpy(object), rows.examples.to_numpy(object)])
    tip = "%{customdata[0]}<br>%{customdata[1]:,} training examples<br>"
    series = [
        ("share of examples", "var(--faint)", "circle", 1),
        ("effective prior", "var(--c2)", "circle", 1),
        ("draws per example", "var(--c1)", "circle", 2),
        ("class weight", "var(--c3)", "diamond", 2),
    ]
    many = len(rows) > 150
    for column, colour, symbol, row in series:
        values = rows[column].to_numpy(float)
        text = "%{y:.3%}" if row == 1 else "%{y:,.3~r}"
        trace = go.Scatter(
            x=ranks, y=np.where(values > 0, values, np.nan), name=column, mode="markers" if many else "lines+markers",
            customdata=hover, hovertemplate=f"{tip}{column}: {text}<extra></extra>",
            marker={"color": colour, "size": 4 if many else 7, "symbol": symbol}, line={"color": colour, "width": 1.5},
        )  # fmt: skip
        plot.add_trace(trace, row=row, col=1)
    plot.add_hline(1, row=2, col=1, line={"color": "var(--muted)", "width": 1, "dash": "dot"})
    shares = rows[["share of examples", "effective prior"]].to_numpy(float)
    plot.update_yaxes(
        title="share, log scale", type="log", dtick=log_ticks(shares), exponentformat="none", tickformat="~%",
        row=1, col=1,
    )  # fmt: skip
    # Show at least 0.5 to 2: a tighter axis would magnify rounding errors of values that are all 1.
    times = rows[["draws per example", "class weight"]].to_numpy(float)
    low, high = min(times[times > 0].min(), 0.5) / 1.2, max(times.max(), 2) * 1.2
    ends = np.array([low, high])
    plot.update_yaxes(
        title="factor, log scale", type="log", dtick=log_ticks(ends), tickformat="~g", range=np.log10(ends).tolist(),
        row=2, col=1,
    )  # fmt: skip
    plot.update_xaxes(showgrid=False, dtick=1 if len(rows) <= 12 else None)
    plot.update_xaxes(range=[1 - 0.02 * len(rows), 1.02 * len(rows) + 0.5])
    plot.update_xaxes(title=f"{results.nouns}, from the most frequent to the rarest", row=2, col=1)
    plot.update_layout(height=460)
    return plot


def describe_strategy(results: RunResults) -> str:
    """Return in a few sentences what the strategy did, starting with the effective prior."""
    other_parts = [text for text in (_loss(results), _second_stage(results)) if text]
    return " ".join([_effective_prior(results, bool(other_parts)), *other_parts])


def _effective_prior(results: RunResults, has_other_parts: bool) -> str:
    """Return how sampler, class weights and instance weights changed the effective prior."""
    known, noun, nouns = results.counts > 0, results.noun, results.nouns
    counts, prior = results.counts[known], results.effective_prior[known]
    scheduled = results.setting("strategy", "schedule") is not None
    when = " in the epoch of the best checkpoint" if scheduled else ""
    ratio_of_counts = counts.max() / counts.min()
    if _equal(prior / counts):
        what = "Sampler and weights made no change" if has_other_parts else "No correction"
        if ratio_of_counts == 1:
            return f"{what}{when}: all {nouns} have the same number of examples and the same effective prior."
        return (
            f"{what}{when}: the effective prior of the largest {noun} is {format_factor(ratio_of_counts)} times that "
            "of the smallest, as in the data."
        )
    if ratio_of_counts == 1:
        spread = f"differ by a factor of up to {format_factor(prior.max() / prior.min())}"
        spread = spread if prior.min() else "are zero for some of them"
        return f"All {nouns} have the same number of examples; their effective priors{when} {spread}."
    start = f"The largest {noun} has {format_factor(ratio_of_counts)} times the examples of the smallest; "
    if _equal(prior):
        return f"{start}the effective prior{when} is the same for all {nouns}."
    largest, smallest = prior[counts.argmax()], prior[counts.argmin()]
    if not (largest and smallest):
        return f"{start}the effective prior{when} of the {'smallest' if largest else 'largest'} is zero."
    if _equal(np.array([largest, smallest])):
        return f"{start}the effective prior{when} is the same for both, but not for all {nouns}."
    if largest > smallest:
        return f"{start}its effective prior{when} is {format_factor(largest / smallest)} times as large."
    return (
        f"{start}the effective prior{when} of the smallest is {format_factor(smallest / largest)} times that of the "
        "largest (over-correction)."
    )


def _equal(values: np.ndarray) -> bool:
    return bool(values.max() <= 1.01 * values.min())


def _loss(results: RunResults) -> str:
    """Return which loss was used; empty for cross-entropy."""
    name = _class_name(results.setting("strategy", "loss", "_target_"))
    if name in ("", "cross_entropy"):
        return ""
    weights = ", with its own label weights" if results.setting("strategy", "loss", "label_weights") else ""
    return f"Loss: {LOSSES.get(name, name)}{weights}."


def _second_stage(results: RunResults) -> str:
    """Return what the second stage did; empty without one."""
    found = results.metrics.get("second_stage")
    if found is None:
        return ""
    name = _class_name(results.setting("strategy", "second_stage", "_target_"))
    numbers = ", ".join(
        f"{key} {value:,}" if isinstance(value, int) else f"{key} {value:g}" for key, value in found.items()
    )
    effect = SECOND_STAGES.get(name, f"{name} replaced the head")
    return f"Second stage: {effect}{f' ({numbers})' if numbers else ''}."


def _class_name(target: object) -> str:
    return str(target or "").rsplit(".", 1)[-1]
