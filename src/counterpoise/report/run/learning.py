"""How the run learned and what it learned from: the curves and gaps, the data."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.subplots import make_subplots

from counterpoise.data.quality import MIN_TEST_EXAMPLES
from counterpoise.report.html_page import Panel, figure, render, table
from counterpoise.report.run.scores import NAMES
from counterpoise.training.results import RunResults, one_hot

SPLITS = {"train_sample": "train", "validation": "validation", "test": "test"}
SINGLE = ("macro_f1", "balanced_accuracy", "accuracy", "head_recall", "medium_recall", "tail_recall", "loss")
MULTI = ("macro_f1", "micro_f1", "map", "head_recall", "medium_recall", "tail_recall", "loss")
GAP = 0.03
"""A difference of macro F1 between splits from which on it is worth a word."""
FLAT = 0.02
"""A rise of the validation loss, as a share of it, up to which it is none."""


def learning(results: RunResults) -> Panel:
    """Returns the panel of training against validation, and of the gaps between the splits."""
    body = Markup()
    if results.history is not None:
        body += figure("learning-plot", _curves(results.history), "Losses and validation scores by training step")
    wanted = [name for name in (MULTI if results.multi_label else SINGLE) if name in results.metrics["test"]]
    present = {split: name for split, name in SPLITS.items() if split in results.metrics}
    gaps = pd.DataFrame(
        {name: [results.metrics[split].get(metric, np.nan) for metric in wanted] for split, name in present.items()}
    )
    gaps.insert(0, "score", [NAMES.get(metric, metric) for metric in wanted])
    if "train" in gaps:
        gaps["train − test"] = gaps["train"] - gaps["test"]
    formats = dict.fromkeys([*present.values(), "train − test"], ".3f")
    body += table(gaps, formats, "The same checkpoint on each split; of training a sample")
    return Panel("learning", "Learning and overfitting", verdict(results), body)


def verdict(results: RunResults) -> str:
    """Returns in a sentence or two whether the run overfitted, by macro F1 and by the validation loss."""
    scores = {name: results.metrics[split]["macro_f1"] for split, name in SPLITS.items() if split in results.metrics}
    words = []
    if "train" in scores:
        gap = scores["train"] - scores["test"]
        if gap > GAP:
            words.append(f"Macro F1 is {gap:.2f} higher on training texts than on test texts: part of it is memory.")
            parts = [
                (
                    results.metrics["train_sample"][f"{bucket}_recall"] - results.metrics["test"][f"{bucket}_recall"],
                    bucket,
                )
                for bucket in ("head", "medium", "tail")
                if all(f"{bucket}_recall" in results.metrics[split] for split in ("train_sample", "test"))
            ]
            if parts and max(parts)[0] > GAP:
                words.append(f"Recall falls most in the {max(parts)[1]}, by {max(parts)[0]:.2f}.")
        else:
            words.append(f"Training and test are close: macro F1 {scores['train']:.2f} and {scores['test']:.2f}.")
    words.append(_lowest(_series(results.history, "val/loss"), _series(results.history, "val/macro_f1")))
    return " ".join(filter(None, words)) or "The scores of the best checkpoint."


def _lowest(losses: pd.DataFrame, scores: pd.DataFrame) -> str:
    """Returns where the validation loss was lowest, and whether macro F1 has risen since; nothing of a single one."""
    if len(losses) < 2:
        return ""
    best, last = losses.iloc[int(losses.y.to_numpy().argmin())], losses.y.iloc[-1]
    if last <= best.y:
        return "The validation loss was still at its lowest at the end."
    after = scores.x > best.x
    highest, then = scores.y[after].max(), scores.y[~after].max()  # NaN where there are none
    risen = "" if not highest > then else f" Macro F1 rose on, from {then:.3f} to {highest:.3f}."
    if last <= (1 + FLAT) * best.y:
        return f"The validation loss was lowest at step {best.x:,.0f}, and hardly higher at the end.{risen}"
    by = f" by {last / best.y - 1:.0%}" if 0 < last < 100 * best.y else ""
    useless = ": longer would not help" if highest <= then else ""
    return f"The validation loss has risen{by} since step {best.x:,.0f}{useless}.{risen}"


def data(results: RunResults) -> Panel:
    """Returns the panel of the data: lengths, splits, what the audit said, what is too rare to evaluate."""
    longest = int(results.lengths.max(initial=1))
    width = max(1, -(-longest // 60))
    edges = np.arange(longest + 0.5, -width, -width)[::-1]
    heights = np.histogram(results.lengths, edges)[0]
    plot = go.Figure(
        go.Bar(
            x=edges[:-1] + width / 2, y=heights, width=width * 0.92, marker={"color": "var(--c1)"},
            customdata=np.column_stack([np.maximum(edges[:-1] + 0.5, 0), edges[1:] - 0.5]),
            hovertemplate="%{customdata[0]} to %{customdata[1]} tokens: %{y:,} texts<extra></extra>",
        )
    )  # fmt: skip
    plot.add_vline(results.max_length + 0.5, line={"color": "var(--c2)", "width": 2, "dash": "dash"})
    cut = f"{results.truncated_fraction:.1%}" if results.truncated_fraction else "none"
    text = f"max_length {results.max_length}: {cut} cut"
    plot.add_annotation(
        x=results.max_length, y=1, yref="paper", text=text, showarrow=False, xanchor="right", xshift=-6, yanchor="bottom",
        font={"color": "var(--c2)"},
    )  # fmt: skip
    plot.update_layout(height=280, showlegend=False, bargap=0, margin={"l": 8, "r": 12, "t": 30, "b": 8})
    plot.update_xaxes(
        title="tokens of a training text", showgrid=False, range=[0, max(longest, results.max_length) * 1.02]
    )
    plot.update_yaxes(title="texts")
    middle = np.median(results.lengths) if len(results.lengths) else 0
    note = f"Half of the training texts have {middle:.0f} tokens or more; "
    if results.truncated_fraction:
        note += f"{cut} are longer than encoder.max_length={results.max_length}, and what is beyond was not read."
    else:
        note += f"none is longer than encoder.max_length={results.max_length}."
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
        f"{results.nouns.capitalize()} with fewer than {MIN_TEST_EXAMPLES} test texts, whose own scores say little"
    )
    body = render(
        "run/data.html",
        lengths=figure("lengths-plot", plot, f"Histogram of the tokens of training texts. {text}"),
        splits=table(_splits(results), dict.fromkeys(("texts", "unseen"), ",d"), "Splits"),
        audit=results.data_warnings,
        rare=table(rows, counts, caption) if len(rare) else "",
        summary=f"{len(rare):,} of {len(test):,} {results.nouns} have fewer than {MIN_TEST_EXAMPLES} test texts",
    )
    return Panel("data", "Data", note, body)


def _curves(history: pd.DataFrame) -> go.Figure:
    plot = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.55, 0.45])
    step = _series(history, "train/loss_step")
    if len(step) > 4:
        smooth = step.y.ewm(halflife=max(2, len(step) / 25)).mean()
        plot.add_scatter(
            x=step.x, y=step.y, mode="lines", line={"color": "var(--c1-faint)", "width": 1}, showlegend=False,
            hoverinfo="skip", row=1, col=1,
        )  # fmt: skip
        step = step.assign(y=smooth)
    lines = [
        (step, "training loss, as optimised", "var(--c1)", "lines", "solid", 1),
        (
            _series(history, "val/loss_weighted"),
            "validation loss, as optimised",
            "var(--c2)",
            "lines+markers",
            "dot",
            1,
        ),
        (_series(history, "val/loss"), "validation loss, unweighted", "var(--c2)", "lines+markers", "solid", 1),
        (_series(history, "val/macro_f1"), "validation macro F1", "var(--c3)", "lines+markers", "solid", 2),
        (_series(history, "val/accuracy"), "validation accuracy", "var(--c4)", "lines+markers", "solid", 2),
        (
            _series(history, "val/balanced_accuracy"),
            "validation balanced accuracy",
            "var(--c5)",
            "lines+markers",
            "dot",
            2,
        ),
        (_series(history, "val/map"), "validation mean average precision", "var(--c5)", "lines+markers", "dot", 2),
    ]
    if not len(_series(history, "val/accuracy")):
        lines.insert(
            4, (_series(history, "val/micro_f1"), "validation micro F1", "var(--c4)", "lines+markers", "solid", 2)
        )
    for series, name, colour, mode, dash, row in lines:
        if len(series):
            plot.add_scatter(
                x=series.x, y=series.y, name=name, mode=mode, row=row, col=1, marker={"size": 7, "color": colour},
                line={"color": colour, "width": 2, "dash": dash},
                hovertemplate=f"step %{{x:,}}<br>{name}: %{{y:.4f}}<extra></extra>",
            )  # fmt: skip
    plot.update_yaxes(title="loss, log scale", type="log", tickformat="~g", dtick=1, row=1, col=1)
    plot.update_yaxes(title="score", row=2, col=1)
    plot.update_xaxes(showgrid=False)
    plot.update_xaxes(title="step", row=2, col=1)
    plot.update_layout(height=470)
    return plot


def _series(history: pd.DataFrame | None, column: str) -> pd.DataFrame:
    """Returns columns x (step) and y of what was logged under a name; no row where nothing was."""
    if history is None or column not in history:
        return pd.DataFrame({"x": [], "y": []})
    rows = history[history[column].notna()]
    return pd.DataFrame({"x": rows["step"].to_numpy() + 1, "y": rows[column].to_numpy(float)})


def _splits(results: RunResults) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    seen: list[tuple[str, Any]] = []
    for name, part in results.metrics.get("data", {}).items():
        found = part.get("dropped", {})
        dropped = ", ".join(f"{count:,} {why}" for why, count in found.items())
        # Splits cut off one file have its count each: it is shown once.
        whole = next((other for other, counted in seen if counted == found and not results.setting("data", name)), "")
        if dropped and whole:
            dropped = f"counted with {whole}"
        seen.append((name, found))
        rows.append(
            {"split": name, "texts": part["examples"], "unseen": part.get("unseen", 0), "dropped": dropped or "–"}
        )
    return pd.DataFrame(rows, columns=["split", "texts", "unseen", "dropped"])
