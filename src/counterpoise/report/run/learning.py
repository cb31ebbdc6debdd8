"""Panel of the learning curves and of the gaps between the splits."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.subplots import make_subplots

from counterpoise.metrics.registry import select, title
from counterpoise.report.count_axis import log_ticks
from counterpoise.report.html_page import Panel, figure, table
from counterpoise.training.results import RunResults
from counterpoise.training.verdict import peaked_early

SPLITS = {"train_sample": "train", "validation": "validation", "test": "test"}
CURVES = {False: ("macro_f1", "accuracy", "balanced_accuracy"), True: ("macro_f1", "micro_f1", "map")}
"""Validation scores that are drawn, by whether the task is multi-label."""
GAP = 0.03
"""Difference of macro F1 between training and test above which the model overfits."""
TOLERANCE = 0.02
"""Relative rise of the validation loss that counts as no rise."""


def learning_panel(results: RunResults) -> Panel:
    """Return the panel of the learning curves and of the scores on each split."""
    body = Markup()
    if results.history is not None:
        plot = _curves(results.history, CURVES[results.multi_label])
        body += figure("learning-plot", plot, "Losses, validation scores and gradient norm by training step")
    shown = [each.name for each in select("multi_label" if results.multi_label else "single_label", "headline")]
    metrics = [name for name in [*shown, "loss"] if name in results.metrics["test"]]
    splits = {split: name for split, name in SPLITS.items() if split in results.metrics}
    gaps = pd.DataFrame(
        {name: [results.metrics[split].get(metric, np.nan) for metric in metrics] for split, name in splits.items()}
    )
    gaps.insert(0, "metric", [title(metric) for metric in metrics])
    if "train" in gaps:
        gaps["train − test"] = gaps["train"] - gaps["test"]
    formats = dict.fromkeys([*splits.values(), "train − test"], ".3f")
    body += table(gaps, formats, "Scores of the best checkpoint on each split (train: a sample)")
    return Panel("learning", "Learning and overfitting", describe_learning(results), body)


def describe_learning(results: RunResults) -> str:
    """Return in a few sentences whether the model overfits, by macro F1 and by the validation loss."""
    scores = {name: results.metrics[split]["macro_f1"] for split, name in SPLITS.items() if split in results.metrics}
    sentences = []
    if "train" in scores:
        gap = scores["train"] - scores["test"]
        if gap > GAP:
            sentences.append(
                f"The model overfits: macro F1 is {scores['train']:.2f} on training texts and {scores['test']:.2f} on "
                "test texts."
            )
            bucket, largest = _largest_recall_gap(results)
            if largest > GAP:
                sentences.append(f"The gap in recall is largest for {bucket} {results.nouns} ({largest:.2f}).")
        else:
            sentences.append(
                f"No sign of overfitting: macro F1 is {scores['train']:.2f} on training texts and "
                f"{scores['test']:.2f} on test texts."
            )
    monitor = str(results.setting("monitor") or "val/macro_f1")
    sentences.append(_validation_loss(results.history, monitor))
    return " ".join(filter(None, sentences)) or "Scores of the best checkpoint."


def _largest_recall_gap(results: RunResults) -> tuple[str, float]:
    """Return the bucket whose recall differs most between training and test, and the difference."""
    train, test = results.metrics["train_sample"], results.metrics["test"]
    names = [name for name in ("head", "medium", "tail") if f"{name}_recall" in train and f"{name}_recall" in test]
    gaps = {name: train[f"{name}_recall"] - test[f"{name}_recall"] for name in names}
    return max(gaps.items(), key=lambda item: item[1], default=("", 0.0))


def _validation_loss(history: pd.DataFrame | None, monitor: str) -> str:
    """Return where the validation loss was lowest and how macro F1 and the monitored metric went on.

    Empty for a single value of the loss.
    """
    losses, scores = _series(history, "val/loss"), _series(history, "val/macro_f1")
    if len(losses) < 2:
        return ""
    best, last = losses.iloc[int(losses.y.to_numpy().argmin())], losses.y.iloc[-1]
    if last <= best.y:
        lowest = "The validation loss was lowest at the end of training"
        if peak := peaked_early(history, monitor):
            step, highest, end = peak
            name = title(monitor.removeprefix("val/"))
            return (
                f"{lowest}, but the monitored {name} was best at step {step:,} ({highest:.3f}) and is {end:.3f} at the "
                "end: a lower loss does not mean a better model here, and longer training is unlikely to help."
            )
        return f"{lowest}."
    after = scores.x > best.x
    before_score, after_score = scores.y[~after].max(), scores.y[after].max()  # NaN if there are none
    rise = (
        ""
        if not after_score > before_score
        else (f" Macro F1 still rose, from {before_score:.3f} to {after_score:.3f}.")
    )
    if last <= (1 + TOLERANCE) * best.y:
        return f"The validation loss was lowest at step {best.x:,.0f} and has hardly risen since.{rise}"
    by = f" by {last / best.y - 1:.0%}" if 0 < last < 100 * best.y else ""
    advice = " Longer training is unlikely to help." if after_score <= before_score else ""
    return f"The validation loss has risen{by} since step {best.x:,.0f}.{advice}{rise}"


def _curves(history: pd.DataFrame, scores: tuple[str, ...]) -> go.Figure:
    gradient = _series(history, "train/grad_norm")
    heights = [0.42, 0.34, 0.24] if len(gradient) else [0.55, 0.45]
    plot = make_subplots(rows=len(heights), cols=1, shared_xaxes=True, vertical_spacing=0.07, row_heights=heights)
    loss = _series(history, "train/loss_step")
    if len(loss) > 4:
        plot.add_scatter(
            x=loss.x, y=loss.y, mode="lines", line={"color": "var(--c1-faint)", "width": 1}, showlegend=False,
            hoverinfo="skip", row=1, col=1,
        )  # fmt: skip
        loss = loss.assign(y=loss.y.ewm(halflife=max(2, len(loss) / 25)).mean())
    weighted, unweighted = _series(history, "val/loss_weighted"), _series(history, "val/loss")
    lines = [
        (loss, "training loss, as optimised", "var(--c1)", "lines", "solid", 1),
        (weighted, "validation loss, as optimised", "var(--c2)", "lines+markers", "dot", 1),
        (unweighted, "validation loss, unweighted", "var(--c2)", "lines+markers", "solid", 1),
    ]
    for number, name in enumerate(scores):
        colour, dash = f"var(--c{3 + number % 4})", "dot" if number > 1 else "solid"
        series = _series(history, f"val/{name}")
        lines.append((series, f"validation {title(name)}", colour, "lines+markers", dash, 2))
    if len(gradient):
        lines.append((gradient, "gradient norm", "var(--muted)", "lines", "solid", 3))
    for series, name, colour, mode, dash, row in lines:
        if len(series):
            plot.add_scatter(
                x=series.x, y=series.y, name=name, mode=mode, row=row, col=1, marker={"size": 7, "color": colour},
                line={"color": colour, "width": 2 if row < 3 else 1, "dash": dash},
                hovertemplate=f"step %{{x:,}}<br>{name}: %{{y:.4f}}<extra></extra>",
            )  # fmt: skip
    ticks = log_ticks(np.concatenate([series.y for series, *_, row in lines if row == 1]))
    plot.update_yaxes(title="loss, log scale", type="log", tickformat="~g", dtick=ticks, row=1, col=1)
    plot.update_yaxes(title="score", row=2, col=1)
    if len(gradient):
        plot.update_yaxes(
            title="norm, log scale", type="log", tickformat="~g", dtick=log_ticks(gradient.y.to_numpy()), row=3, col=1
        )
    plot.update_xaxes(showgrid=False)
    plot.update_xaxes(title="step", row=len(heights), col=1)
    plot.update_layout(height=470 if len(heights) == 2 else 600)
    return plot


def _series(history: pd.DataFrame | None, column: str) -> pd.DataFrame:
    """Return a logged column as x (step, from 1) and y; no rows if it was not logged."""
    if history is None or column not in history:
        return pd.DataFrame({"x": [], "y": []})
    rows = history[history[column].notna()]
    return pd.DataFrame({"x": rows["step"].to_numpy() + 1, "y": rows[column].to_numpy(float)})
