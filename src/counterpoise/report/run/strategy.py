"""What the strategy did to each class, and in a few words: by sampler and weights, by its loss, by a second stage."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.subplots import make_subplots

from counterpoise.report.html_page import Panel, factor, figure, render, table
from counterpoise.training.results import RunResults

LOSSES = {
    "focal": "a focal loss, in which what is decided well counts less",
    "LogitAdjusted": "a logit-adjusted loss, in which a rare class has to win by more",
    "LDAM": "margins that are the wider the rarer a class is (LDAM)",
    "Asymmetric": "an asymmetric loss, in which easy negatives hardly count",
    "DistributionBalanced": "a distribution-balanced loss",
}
STAGES = {
    "PostHoc": "took the log of the prior off the logits",
    "TauNormalised": "brought the weights of the head to similar norms",
    "Retrained": "trained a new head on the vectors of the encoder, with a sampler of its own",
}


def correction(results: RunResults) -> Panel:
    """Returns the panel of what the strategy did to each class."""
    own, order = results.correction, np.argsort(-results.counts, kind="stable")
    ranks = np.arange(1, len(order) + 1)
    rows = pd.DataFrame(
        {
            results.noun: np.array(results.labels, object),
            "examples": results.counts,
            "drawn an epoch": own.expected_class_counts,
            "draws of one": own.draws_per_example,
            "weight": own.class_weights,
            **({"weight of a negative": own.negative_weights} if results.multi_label else {}),
            "share of examples": results.counts / max(results.counts.sum(), 1),
            "effective_prior": results.effective_prior / results.effective_prior.sum(),
        }
    ).iloc[order]
    plot = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.07, row_heights=[0.6, 0.4])
    hover = np.column_stack([rows[results.noun].to_numpy(object), rows.examples.to_numpy(object)])
    tip = "%{customdata[0]}<br>%{customdata[1]:,} training examples<br>"
    series = [
        ("share of examples", "share of the examples", "var(--faint)", "circle", 1),
        ("effective_prior", "share of the training (effective prior)", "var(--c2)", "circle", 1),
        ("draws of one", "draws of one example an epoch", "var(--c1)", "circle", 2),
        ("weight", "weight of one drawn example", "var(--c3)", "diamond", 2),
    ]
    crowd = len(order) > 150
    for column, name, colour, symbol, row in series:
        values = rows[column].to_numpy(float)
        text = "%{y:.3%}" if row == 1 else "%{y:,.3~r}"
        trace = go.Scatter(
            x=ranks, y=np.where(values > 0, values, np.nan), name=name, mode="markers" if crowd else "lines+markers",
            customdata=hover, hovertemplate=f"{tip}{name}: {text}<extra></extra>",
            marker={"color": colour, "size": 4 if crowd else 7, "symbol": symbol}, line={"color": colour, "width": 1.5},
        )  # fmt: skip
        plot.add_trace(trace, row=row, col=1)
    plot.add_hline(1, row=2, col=1, line={"color": "var(--muted)", "width": 1, "dash": "dot"})
    plot.update_yaxes(type="log", dtick=1)
    plot.update_yaxes(title="share, log scale", exponentformat="none", tickformat="~%", row=1, col=1)
    # At least from half to double: an axis that fits what is 1 throughout shows rounding errors as a mountain.
    times = rows[["draws of one", "weight"]].to_numpy(float)
    low, high = min(times[times > 0].min(), 0.5) / 1.2, max(times.max(), 2) * 1.2
    plot.update_yaxes(title="times, log scale", tickformat="~g", range=np.log10([low, high]).tolist(), row=2, col=1)
    plot.update_xaxes(showgrid=False, dtick=1 if len(order) <= 12 else None)
    plot.update_xaxes(range=[1 - 0.02 * len(order), 1.02 * len(order) + 0.5])
    plot.update_xaxes(title=f"{results.nouns}, from the most frequent to the rarest", row=2, col=1)
    plot.update_layout(height=460)
    formats = {"examples": ",d", "drawn an epoch": ",.1f", "draws of one": ",.2f", "weight": ",.3f"}
    formats |= {"weight of a negative": ",.3f", "share of examples": ".3%", "effective_prior": ".3%"}
    note = f"{effect(results)} Where the two lines of the upper part meet, training follows the data."
    body = figure("balance-plot", plot, "Share of the examples and of the training, draws and weight of each class")
    return Panel("strategy", "What the strategy did", note, body + _behind(rows, formats, results))


def effect(results: RunResults) -> str:
    """Returns in a few sentences what the strategy did, first to the largest and the smallest class."""
    beyond = [words for words in (_loss(results), _second_stage(results)) if words]
    return " ".join([_emphasis(results, bool(beyond)), *beyond])


def _emphasis(results: RunResults, beyond: bool) -> str:
    """Returns what sampler and weights did; beyond: the strategy did more than that."""
    known, noun, nouns = results.counts > 0, results.noun, results.nouns
    counts, effective_prior = results.counts[known], results.effective_prior[known]
    largest, smallest = counts.argmax(), counts.argmin()
    most, least = effective_prior[largest], effective_prior[smallest]
    before = counts[largest] / counts[smallest]
    scheduled = results.setting("strategy", "schedule") is not None
    when = "in the epoch of the best checkpoint" if scheduled else "in training"
    if _alike(effective_prior / counts):
        what = "Sampler and class weights leave the data as it is" if beyond else "Nothing"
        what += f" {when}" if scheduled else ""
        if before == 1:
            return f"{what}: every {noun} has as many examples as any other, and counts as much."
        return f"{what}: the largest {noun} counts {factor(before)} times the smallest, as in the data."
    if before == 1:
        most, least = effective_prior.max(), effective_prior.min()
        spread = f"one counts up to {factor(most / least)} times as much as another" if least else "some do not count"
        return f"All {nouns} have as many examples; {when} {spread}."
    words = f"The largest {noun} has {factor(before)} times the examples of the smallest; {when}"
    if _alike(effective_prior):
        return f"{words} each counts the same."
    if not (most and least):
        return f"{words} {'the smallest' if most else 'it'} does not count."
    if _alike(np.array([most, least])):
        return f"{words} the two count the same, and others do not."
    if most > least:
        return f"{words} it counts {factor(most / least)} times as much."
    return f"{words} the smallest counts {factor(least / most)} times as much as the largest, the wrong way round."


def _alike(values: np.ndarray) -> bool:
    return bool(values.max() <= 1.01 * values.min())


def _loss(results: RunResults) -> str:
    """Returns what the loss does beyond likelihood and class weights, nothing where it is no more than that."""
    name = _name(results.setting("strategy", "loss", "_target_"))
    if name in ("", "cross_entropy"):
        return ""
    own = ", with weights of its own" if results.setting("strategy", "loss", "label_weights") else ""
    return f"The strategy trained with {LOSSES.get(name, f'the loss {name}')}{own}."


def _second_stage(results: RunResults) -> str:
    """Returns what the second stage did, nothing where there was none."""
    found = results.metrics.get("second_stage")
    if found is None:
        return ""
    name = _name(results.setting("strategy", "second_stage", "_target_"))
    numbers = ", ".join(
        f"{key} {value:,}" if isinstance(value, int) else f"{key} {value:g}" for key, value in found.items()
    )
    return f"A second stage {STAGES.get(name, f'({name}) made another head')}{f' ({numbers})' if numbers else ''}."


def _name(target: object) -> str:
    return str(target or "").rsplit(".", 1)[-1]


def _behind(rows: pd.DataFrame, formats: dict[str, str], results: RunResults) -> Markup:
    return render(
        "shared/expandable.html", summary=f"The numbers of all {len(rows):,} {results.nouns}",
        body=table(rows, formats, f"{results.nouns.capitalize()} by training examples"),
    )  # fmt: skip
