"""Panel of the calibration of the probabilities and of the risk-coverage curve."""

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
from counterpoise.training.summary import risen_scores

NAMES = {
    "raw": "uncalibrated",
    "temperature": "temperature scaled",
    "prior_corrected": "prior corrected",
    "prior_corrected_temperature": "prior corrected, temperature scaled",
}
CAPTION = (
    "Test split, lower is better. NLL: negative log-likelihood; ECE: expected calibration error with bins of equal "
    "width; adaptive ECE: with bins of equal mass; AURC: area under the risk-coverage curve"
)
METHODS = {
    "temperature": "temperature scaling",
    "prior_corrected": "prior correction",
    "prior_corrected_temperature": "prior correction and temperature scaling",
}
SCORES = {
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "adaptive_ece": "adaptive ECE",
    "aurc": "AURC",
}
MIN_JOINED = 4
"""Texts of a bin that the line passes through. The frequency of fewer is mostly chance."""
POINTS = 400
"""Points of a risk-coverage curve."""


def calibration_panel(results: RunResults) -> Panel | None:
    """Return the panel of calibration and of risk against coverage; None if a logit is not finite."""
    if not np.isfinite(results.test_logits).all():
        return None
    if results.calibration is None:
        bins = {"raw": probabilities.reliability(results.test_logits, results.test_targets)}
        risks = {"raw": probabilities.risk_coverage(results.test_logits, results.test_targets, results.decided)}
        chosen, scores = "raw", {"raw": {"ece": bins["raw"].error}}
    else:
        measured = results.calibration
        chosen, scores = measured.variant, measured.summary["test"]
        shown = ["raw"] if chosen == "raw" else ["raw", chosen]
        bins = {name: measured.reliability[name] for name in shown}
        risks = {name: measured.risks[name] for name in shown}
        if results.multi_label:
            risks = {chosen: risks[chosen]}
    note = _describe(results, bins, chosen)
    body = figure(
        "calibration-plot", _reliability(bins, results.multi_label), "Observed frequency against predicted probability"
    )
    if results.calibration is not None:
        rows = pd.DataFrame([{"probabilities": NAMES[name]} | values for name, values in scores.items()])
        rows = rows[["probabilities", *(name for name in SCORES if name in rows)]].rename(columns=SCORES)
        rows["probabilities"] += ["" if name != chosen else " (chosen by cross-validation)" for name in scores]
        body += table(rows, dict.fromkeys(SCORES.values(), ".4f"), CAPTION)
    body += Markup("<h3>Risk and coverage</h3>") + _describe_risk(results, risks[chosen])
    body += figure("risk-plot", _risk(results, risks), "Error rate against coverage")
    return Panel("calibration", "Calibration", note, body)


def _describe(results: RunResults, bins: Mapping[str, Reliability], chosen: str) -> str:
    raw = bins["raw"]
    bias = float(raw.counts @ (raw.confidence - raw.accuracy) / raw.counts.sum())
    if results.multi_label:
        sentences = ["Of the labels with a predicted probability of 80 %, 80 % should be correct (dashed line)."]
    else:
        sentences = ["Of the predictions with a confidence of 80 %, 80 % should be correct (dashed line)."]
    error = f"expected calibration error {raw.error:.3f}"
    if abs(bias) < 0.002:
        sentences.append(f"As trained: {error}.")
    elif results.multi_label:
        sentences.append(f"As trained, the probabilities are too {'high' if bias > 0 else 'low'} ({error}).")
    else:
        sentences.append(f"As trained, the model is {'over' if bias > 0 else 'under'}confident ({error}).")
    if chosen != "raw" and results.calibration is not None:
        raw_scores, scores = (results.calibration.summary["test"][name] for name in ("raw", chosen))
        sentences.append(
            f"With {METHODS[chosen]} the error is {bins[chosen].error:.3f} and the NLL {scores['nll']:.3f} instead of "
            f"{raw_scores['nll']:.3f}. The NLL on the validation split chose it."
        )
        if risen := risen_scores(raw_scores, scores):
            sentences.append(f"{risen[0].upper()}{risen[1:]}.")
    return " ".join(sentences)


def _describe_risk(results: RunResults, curve: RiskCurve) -> Markup:
    if results.multi_label:
        text = (
            "Pairs of text and label, the most confident first. Most pairs are confident negatives, so the axis starts "
            "at 90 %."
        )
    else:
        risk, total_risk = curve.risk(np.array([-(-4 * curve.total // 5), curve.total])).tolist()
        text = (
            f"If the least confident 20 % of the texts are left to a person, the error rate of the others is "
            f"{risk:.1%} instead of {total_risk:.1%}."
        )
    return Markup('<p class="note">{}</p>').format(text)


def _reliability(bins: Mapping[str, Reliability], multi_label: bool) -> go.Figure:
    unit = "pairs" if multi_label else "texts"
    plot = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.05, row_heights=[0.76, 0.24])
    plot.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": "var(--faint)", "dash": "dash", "width": 1.5},
        hoverinfo="skip", showlegend=False, row=1, col=1,
    )  # fmt: skip
    for (name, each), colour in zip(bins.items(), ("var(--c2)", "var(--c1)"), strict=False):
        full = each.counts > 0
        low, high = wilson_interval(each.accuracy[full] * each.counts[full], each.counts[full])
        joined = each.counts >= MIN_JOINED
        plot.add_scatter(
            x=each.confidence[joined], y=each.accuracy[joined], mode="lines", hoverinfo="skip", showlegend=False,
            line={"color": colour, "width": 1.5}, row=1, col=1,
        )  # fmt: skip
        plot.add_scatter(
            x=each.confidence[full], y=each.accuracy[full], name=NAMES[name], mode="markers", row=1, col=1,
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
            hovertemplate=f"predicted %{{x:.1%}}<br>observed %{{y:.1%}}<br>%{{customdata:,}} {unit}<extra></extra>",
        )  # fmt: skip
        middle = (each.edges[:-1] + each.edges[1:]) / 2
        plot.add_bar(
            x=middle[full], y=each.counts[full], width=np.diff(each.edges)[full] * 0.42,
            offset=(-0.44 if name == "raw" else 0.02) * np.diff(each.edges)[full] if len(bins) > 1 else None,
            marker={"color": colour}, showlegend=False, row=2, col=1,
            hovertemplate=f"%{{y:,}} {unit}<extra></extra>",
        )  # fmt: skip
    plot.update_xaxes(range=[-0.01, 1.01], showgrid=False)
    plot.update_xaxes(title="predicted probability" if multi_label else "confidence", tickformat=".0%", row=2, col=1)
    plot.update_yaxes(
        range=[-0.02, 1.02], title="observed frequency" if multi_label else "accuracy", tickformat=".0%", row=1, col=1
    )
    plot.update_yaxes(type="log", title=unit, dtick=2, tickformat=",~s", row=2, col=1)
    plot.update_layout(height=460, barmode="overlay")
    return plot


def _risk(results: RunResults, risks: Mapping[str, RiskCurve]) -> go.Figure:
    plot = go.Figure()
    colours = ("var(--c2)", "var(--c1)") if len(risks) > 1 else ("var(--c1)",)
    for (name, curve), colour in zip(risks.items(), colours, strict=False):
        covered = np.linspace(1, curve.total, POINTS)
        if results.multi_label:  # more points at the uncertain end
            covered = curve.total + 1 - np.geomspace(1, curve.total, POINTS)
        covered = np.unique(covered.round().astype(int))
        plot.add_scatter(
            x=covered / curve.total, y=curve.risk(covered), mode="lines", name=NAMES[name],
            line={"color": colour, "width": 2},
            hovertemplate="coverage %{x:.1%}: error rate %{y:.2%}<extra></extra>",
        )  # fmt: skip
    plot.update_xaxes(
        range=[0.9 if results.multi_label else 0, 1.002], title="coverage, most confident first", tickformat=".0%"
    )
    plot.update_yaxes(title="error rate", tickformat=".1%", rangemode="tozero")
    plot.update_layout(height=280, showlegend=len(risks) > 1)
    return plot


def wilson_interval(successes: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % confidence interval of a proportion.

    References:
        Wilson (1927), Probable Inference, the Law of Succession, and Statistical Inference.
    """
    z = 1.96
    share = successes / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return np.minimum(middle - half, share), np.maximum(middle + half, share)
