"""The picture of a calibration as a PNG file: reliability, risk by coverage, how often each bucket is predicted."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter
from scipy.stats import beta

from counterpoise.analysis import plot_style
from counterpoise.analysis.plot_style import COLOURS, FAINT, PAPER
from counterpoise.metrics.calibration import Calibration
from counterpoise.metrics.probabilities import Reliability, RiskCurve

_NAMES = {
    "raw": "raw",
    "temperature": "temperature",
    "prior_corrected": "prior-corrected",
    "prior_corrected_temperature": "prior-corrected, temperature",
}
_COLOURS = dict(zip(_NAMES, (COLOURS[0], COLOURS[1], COLOURS[3], COLOURS[2]), strict=True))
_POINTS = 500


def draw(path: str | Path, calibration: Calibration) -> None:
    """Draws the raw probabilities, the prior-corrected ones and the chosen variant on the test split, in three panels.

    Left the share of what came true by confidence, in 15 bins of equal width, with 95 % intervals (Jeffreys'); a point
    is larger with more outcomes, and calibrated ones lie on the diagonal. In the middle the share of mistakes among the
    surest decisions. Right how often the classes of each bucket are predicted, over how often they are true.
    """
    names = [name for name in calibration.variants if name in ("raw", "prior_corrected", calibration.variant)]
    chosen = {calibration.variant: " (chosen)"}
    captions = {name: f"{_NAMES[name]}{chosen.get(name, '')}" for name in names}
    figure = Figure(figsize=(14, 4.9), layout="constrained")
    reliability, risk, shares = figure.subplots(1, 3, width_ratios=[1, 1, 0.8])
    pairs = "micro_f1" in calibration.summary["test"]["raw"]

    _diagonal(reliability)
    for name in names:
        error = calibration.summary["test"][name]["ece"]
        _reliability(reliability, calibration.reliability[name], f"{captions[name]}: ECE {error:.2g}", _COLOURS[name])
    outcome = "the text has the label" if pairs else "the decision is right"
    plot_style.title(reliability, "Reliability", "a point is a bin, larger with more outcomes; 95 % intervals")
    reliability.set_xlabel("probability of a label" if pairs else "confidence: probability of the decision")
    reliability.set_ylabel(f"share in which {outcome}")
    plot_style.legend(reliability, loc="upper left")

    for name in names:
        area = calibration.summary["test"][name]["aurc"]
        _risk(risk, calibration.risks[name], f"{captions[name]}: AURC {area:.2g}", _COLOURS[name])
    plot_style.axes(risk, grid="y")
    risk.set_xlim(-0.02, 1.02)
    worst = max(float(curve.risk(_covered(curve)).max()) for curve in calibration.risks.values())
    risk.set_ylim(0, 1.25 * worst or 1)
    risk.xaxis.set_major_formatter(PercentFormatter(1))
    risk.yaxis.set_major_formatter(PercentFormatter(1))
    what = "pairs of text and label" if pairs else "texts"
    plot_style.title(risk, "Risk by coverage", "wrong decisions among the surest")
    risk.set_xlabel(f"{what} that are decided, the surest first")
    risk.set_ylabel("share decided wrongly")
    plot_style.legend(risk, loc="upper left")

    _shares(shares, calibration.summary["shares"], names)
    plot_style.title(
        shares, "Predicted over observed", f"sum of probabilities over true {'labels' if pairs else 'texts'}"
    )
    plot_style.save(figure, path)


def _diagonal(axes: Axes) -> None:
    plot_style.axes(axes, grid="y")
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.3)  # the legend is above the curves
    axes.set_yticks(np.linspace(0, 1, 6))


def _reliability(axes: Axes, bins: Reliability, label: str, colour: str) -> None:
    held = bins.counts > 0
    x, y, counts = bins.confidence[held], bins.accuracy[held], bins.counts[held]
    low, high = beta.ppf([[0.025], [0.975]], counts * y + 0.5, counts * (1 - y) + 0.5)
    axes.vlines(x, low, high, color=colour, linewidth=1, alpha=0.35, zorder=2)
    axes.plot(x, y, color=colour, linewidth=1.6, label=label, zorder=3)
    area = 14 + 200 * np.sqrt(counts / counts.sum())
    axes.scatter(x, y, s=area, color=colour, edgecolor=PAPER, linewidth=1, zorder=4)


def _risk(axes: Axes, curve: RiskCurve, label: str, colour: str) -> None:
    covered = _covered(curve)
    (line,) = axes.plot(covered / curve.total, curve.risk(covered), color=colour, linewidth=2, label=label, zorder=3)
    line.set_path_effects([withStroke(linewidth=3.6, foreground=PAPER)])


def _covered(curve: RiskCurve) -> np.ndarray:
    return np.unique(np.linspace(1, curve.total, _POINTS).astype(int))


def _shares(axes: Axes, shares: dict[str, dict[str, float]], names: list[str]) -> None:
    plot_style.axes(axes, grid="y")
    known = [bucket for bucket, means in shares.items() if means["observed"]]
    axes.axhline(1, color=FAINT, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
    for number, name in enumerate(names):
        ratios = [shares[bucket][name] / shares[bucket]["observed"] for bucket in known]
        place = np.arange(len(known)) + 0.14 * (number - (len(names) - 1) / 2)
        axes.vlines(place, 1, ratios, color=_COLOURS[name], linewidth=2, zorder=2)
        axes.scatter(place, ratios, s=60, color=_COLOURS[name], edgecolor=PAPER, linewidth=1, zorder=3)
    axes.set_xticks(range(len(known)), known)
    axes.set_xlim(-0.6, len(known) - 0.4)
    axes.set_yscale("log")
    # At least from half to double: a ratio of 1.02 is not to look like a mistake.
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.45), max(high, 2.2))
    axes.yaxis.set_major_locator(FixedLocator([2.0**power for power in range(-10, 11)]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}" if y >= 1 else f"1/{1 / y:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
