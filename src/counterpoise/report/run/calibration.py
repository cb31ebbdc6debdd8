"""How far the probabilities can be trusted."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.subplots import make_subplots

from counterpoise.metrics import probabilities
from counterpoise.metrics.probabilities import Reliability, RiskCurve
from counterpoise.report.html_page import Panel, figure, table
from counterpoise.training.results import RunResults

NAMES = {
    "raw": "as trained",
    "temperature": "temperature",
    "prior_corrected": "prior corrected",
    "prior_corrected_temperature": "prior corrected, temperature",
}
CAPTION = (
    "On the test split, lower is better: negative log-likelihood, Brier score, expected calibration error in bins of "
    "equal width and of equal mass, area under the risk-coverage curve"
)
AFTER = {
    "temperature": "a temperature",
    "prior_corrected": "the prior correction",
    "prior_corrected_temperature": "the prior correction and a temperature",
}
SCORES = {
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "adaptive_ece": "adaptive ECE",
    "aurc": "AURC",
}
POINTS = 400
"""Of a risk-coverage curve."""


def calibration(results: RunResults) -> Panel | None:
    """Returns the panel of calibration and of risk against coverage; None where the logits are not all finite."""
    if not np.isfinite(results.test_logits).all():
        return None
    if results.calibration is None:
        bins = {"raw": probabilities.reliability(results.test_logits, results.test_targets)}
        risks = {"raw": probabilities.risk_coverage(results.test_logits, results.test_targets, results.decided)}
        chosen, scores = "raw", {"raw": {"ece": bins["raw"].error}}
    else:
        own = results.calibration
        chosen, scores = own.variant, own.summary["test"]
        shown = ["raw"] if chosen == "raw" else ["raw", chosen]
        bins = {name: own.reliability[name] for name in shown}
        risks = {name: own.risks[name] for name in shown}
        if results.multi_label:
            risks = {chosen: risks[chosen]}
    note = _words(results, bins, chosen)
    body = figure("calibration-plot", _reliability(bins), "Share of outcomes that came true against confidence")
    if results.calibration is not None:
        rows = pd.DataFrame([{"probabilities": NAMES[name]} | values for name, values in scores.items()])
        rows = rows[["probabilities", *(name for name in SCORES if name in rows)]].rename(columns=SCORES)
        rows["probabilities"] += ["" if name != chosen else " (chosen on validation)" for name in scores]
        body += table(rows, dict.fromkeys(SCORES.values(), ".4f"), CAPTION)
    body += Markup("<h3>Risk and coverage</h3>") + _about_risk(results, risks[chosen])
    body += figure("risk-plot", _risk(results, risks), "Share of wrong decisions against the share that is decided")
    return Panel("calibration", "Calibration", note, body)


def _words(results: RunResults, bins: Mapping[str, Reliability], chosen: str) -> str:
    raw = bins["raw"]
    lean = float(raw.counts @ (raw.confidence - raw.accuracy) / raw.counts.sum())
    what = "A pair of text and label" if results.multi_label else "A decision"
    words = [f"{what} that the model is 80 % sure of should come true in 80 of 100 cases: on the dashed line."]
    if abs(lean) < 0.002:
        words.append(f"As trained the error is {raw.error:.3f}.")
    else:
        if results.multi_label:
            leaning = f"its probabilities are too {'high' if lean > 0 else 'low'}"
        else:
            leaning = "it is too sure" if lean > 0 else "it is not sure enough"
        words.append(f"As trained {leaning}, with an error of {raw.error:.3f}.")
    if chosen != "raw":
        words.append(f"With {AFTER[chosen]} it is {bins[chosen].error:.3f}.")
    return " ".join(words)


def _about_risk(results: RunResults, curve: RiskCurve) -> Markup:
    if results.multi_label:
        text = (
            "Of all pairs of text and label, the surest first; nearly all are sure negatives, so look at the right end."
        )
        return Markup('<p class="note">{}</p>').format(text)
    surest, everything = curve.risk(np.array([-(-4 * curve.total // 5), curve.total])).tolist()
    text = (
        f"Leave the least sure fifth of the texts to a person, and {surest:.1%} of the others are wrong, not "
        f"{everything:.1%}."
    )
    return Markup('<p class="note">{}</p>').format(text)


def _reliability(bins: Mapping[str, Reliability]) -> go.Figure:
    plot = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.05, row_heights=[0.76, 0.24])
    plot.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": "var(--faint)", "dash": "dash", "width": 1.5},
        hoverinfo="skip", showlegend=False, row=1, col=1,
    )  # fmt: skip
    for (name, each), colour in zip(bins.items(), ("var(--c2)", "var(--c1)"), strict=False):
        full = each.counts > 0
        low, high = _wilson(each.accuracy[full] * each.counts[full], each.counts[full])
        plot.add_scatter(
            x=each.confidence[full], y=each.accuracy[full], name=NAMES[name], mode="lines+markers",
            line={"color": colour, "width": 1.5}, row=1, col=1,
            marker={
                "color": colour, "size": np.clip(2.5 * np.log10(each.counts[full] + 1) + 3, 4, 14), "opacity": 1,
                "line": {"width": 0},
            },
            error_y={
                "type": "data", "symmetric": False, "array": high - each.accuracy[full],
                "arrayminus": each.accuracy[full] - low,
                "color": colour.replace(")", "-faint)"), "thickness": 1.5, "width": 0,
            },
            customdata=each.counts[full],
            hovertemplate="sure to %{x:.1%}<br>came true %{y:.1%}<br>%{customdata:,} outcomes<extra></extra>",
        )  # fmt: skip
        middle = (each.edges[:-1] + each.edges[1:]) / 2
        plot.add_bar(
            x=middle[full], y=each.counts[full], width=np.diff(each.edges)[full] * 0.42,
            offset=(-0.44 if name == "raw" else 0.02) * np.diff(each.edges)[full] if len(bins) > 1 else None,
            marker={"color": colour}, showlegend=False, row=2, col=1,
            hovertemplate="%{y:,} outcomes<extra></extra>",
        )  # fmt: skip
    plot.update_xaxes(range=[-0.01, 1.01], showgrid=False)
    plot.update_xaxes(title="how sure the model is", tickformat=".0%", row=2, col=1)
    plot.update_yaxes(range=[-0.02, 1.02], title="came true", tickformat=".0%", row=1, col=1)
    plot.update_yaxes(type="log", title="outcomes", dtick=2, tickformat=",~s", row=2, col=1)
    plot.update_layout(height=460, barmode="overlay")
    return plot


def _risk(results: RunResults, risks: Mapping[str, RiskCurve]) -> go.Figure:
    plot = go.Figure()
    colours = ("var(--c2)", "var(--c1)") if len(risks) > 1 else ("var(--c1)",)
    for (name, curve), colour in zip(risks.items(), colours, strict=False):
        covered = np.linspace(1, curve.total, POINTS)
        if results.multi_label:  # what is uncertain is at the very end
            covered = curve.total + 1 - np.geomspace(1, curve.total, POINTS)
        covered = np.unique(covered.round().astype(int))
        plot.add_scatter(
            x=covered / curve.total, y=curve.risk(covered), mode="lines", name=NAMES[name],
            line={"color": colour, "width": 2},
            hovertemplate="the surest %{x:.1%}: %{y:.2%} wrong<extra></extra>",
        )  # fmt: skip
    plot.update_xaxes(
        range=[0.9 if results.multi_label else 0, 1.002],
        title="share that is decided, the surest first",
        tickformat=".0%",
    )
    plot.update_yaxes(title="wrong among them", tickformat=".1%", rangemode="tozero")
    plot.update_layout(height=280, showlegend=len(risks) > 1)
    return plot


def _wilson(true_positives: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the 95 % interval of a share (Wilson 1927)."""
    z = 1.96
    share = true_positives / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return np.minimum(middle - half, share), np.maximum(middle + half, share)
