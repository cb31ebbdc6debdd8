"""What went into the run and how it learned: the strategy by class, the curves and gaps, the data."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.subplots import make_subplots

from counterpoise.data.audit import RARE
from counterpoise.report.facts import RunFacts, one_hot
from counterpoise.report.headline import NAMES
from counterpoise.report.page import Panel, figure, render, table

SPLITS = {"train_sample": "train", "validation": "validation", "test": "test"}
SINGLE = ("macro_f1", "balanced_accuracy", "accuracy", "head_recall", "medium_recall", "tail_recall", "loss")
MULTI = ("macro_f1", "micro_f1", "map", "head_recall", "medium_recall", "tail_recall", "loss")
GAP = 0.03
"""A difference of macro F1 between splits from which on it is worth a word."""


def balance(facts: RunFacts) -> Panel:
    """Returns the panel of what the strategy did to each class."""
    own, order = facts.balance, np.argsort(-facts.counts, kind="stable")
    ranks = np.arange(1, len(order) + 1)
    rows = pd.DataFrame(
        {
            facts.noun: np.array(facts.labels, object),
            "examples": facts.counts,
            "drawn an epoch": own.drawn_counts,
            "draws of one": own.expected_draws,
            "weight": own.weights,
            **({"weight of a negative": own.negative_weights} if facts.multi_label else {}),
            "share of examples": facts.counts / max(facts.counts.sum(), 1),
            "emphasis": facts.emphasis / facts.emphasis.sum(),
        }
    ).iloc[order]
    plot = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.07, row_heights=[0.6, 0.4])
    hover = np.column_stack([rows[facts.noun].to_numpy(object), rows.examples.to_numpy(object)])
    tip = "%{customdata[0]}<br>%{customdata[1]:,} training examples<br>"
    series = [
        ("share of examples", "share of the examples", "var(--faint)", "circle", 1),
        ("emphasis", "share of the training (emphasis)", "var(--c2)", "circle", 1),
        ("draws of one", "draws of one example an epoch", "var(--c1)", "circle", 2),
        ("weight", "weight of one drawn example", "var(--c3)", "diamond", 2),
    ]
    crowd = len(order) > 150
    for column, name, colour, symbol, row in series:
        values = rows[column].to_numpy(float)
        text = "%{y:.3%}" if row == 1 else "%{y:,.3g}"
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
    plot.update_xaxes(title=f"{facts.nouns}, from the most frequent to the rarest", row=2, col=1)
    plot.update_layout(height=460)
    formats = {"examples": ",d", "drawn an epoch": ",.1f", "draws of one": ",.2f", "weight": ",.3f"}
    formats |= {"weight of a negative": ",.3f", "share of examples": ".3%", "emphasis": ".3%"}
    note = f"{_effect(facts)} Where the two lines of the upper part meet, training follows the data."
    body = figure("balance-plot", plot, "Share of the examples and of the training, draws and weight of each class")
    return Panel("strategy", "What the strategy did", note, body + _behind(rows, formats, facts))


def learning(facts: RunFacts) -> Panel:
    """Returns the panel of training against validation, and of the gaps between the splits."""
    body = Markup()
    if facts.history is not None:
        body += figure("learning-plot", _curves(facts.history), "Losses and validation scores by training step")
    wanted = [name for name in (MULTI if facts.multi_label else SINGLE) if name in facts.metrics["test"]]
    present = {split: name for split, name in SPLITS.items() if split in facts.metrics}
    gaps = pd.DataFrame(
        {name: [facts.metrics[split].get(metric, np.nan) for metric in wanted] for split, name in present.items()}
    )
    gaps.insert(0, "score", [NAMES.get(metric, metric) for metric in wanted])
    if "train" in gaps:
        gaps["train − test"] = gaps["train"] - gaps["test"]
    formats = dict.fromkeys([*present.values(), "train − test"], ".3f")
    body += table(gaps, formats, "The same checkpoint on each split; of training a sample")
    return Panel("learning", "Learning and overfitting", verdict(facts), body)


def verdict(facts: RunFacts) -> str:
    """Returns in a sentence or two whether the run overfitted, by macro F1 and by the validation loss."""
    scores = {name: facts.metrics[split]["macro_f1"] for split, name in SPLITS.items() if split in facts.metrics}
    words = []
    if "train" in scores:
        gap = scores["train"] - scores["test"]
        if gap > GAP:
            words.append(f"Macro F1 is {gap:.2f} higher on training texts than on test texts: part of it is memory.")
            parts = [
                (facts.metrics["train_sample"][f"{bucket}_recall"] - facts.metrics["test"][f"{bucket}_recall"], bucket)
                for bucket in ("head", "medium", "tail")
                if all(f"{bucket}_recall" in facts.metrics[split] for split in ("train_sample", "test"))
            ]
            if parts and max(parts)[0] > GAP:
                words.append(f"Recall falls most in the {max(parts)[1]}, by {max(parts)[0]:.2f}.")
        else:
            words.append(f"Training and test are close: macro F1 {scores['train']:.2f} and {scores['test']:.2f}.")
    losses = _series(facts.history, "val/loss")
    if len(losses) > 1:
        best = int(losses.y.to_numpy().argmin())
        risen = losses.y.iloc[-1] / losses.y.iloc[best] - 1
        if risen > 0.02:
            step = losses.x.iloc[best]
            words.append(f"The validation loss has risen by {risen:.0%} since step {step:,.0f}: longer would not help.")
        else:
            words.append("The validation loss was still at its lowest at the end.")
    return " ".join(words) or "The scores of the best checkpoint."


def data(facts: RunFacts) -> Panel:
    """Returns the panel of the data: lengths, splits, what the audit said, what is too rare to evaluate."""
    longest = int(facts.lengths.max(initial=1))
    width = max(1, -(-longest // 60))
    edges = np.arange(longest + 0.5, -width, -width)[::-1]
    heights = np.histogram(facts.lengths, edges)[0]
    plot = go.Figure(
        go.Bar(
            x=edges[:-1] + width / 2, y=heights, width=width * 0.92, marker={"color": "var(--c1)"},
            customdata=np.column_stack([np.maximum(edges[:-1] + 0.5, 0), edges[1:] - 0.5]),
            hovertemplate="%{customdata[0]} to %{customdata[1]} tokens: %{y:,} texts<extra></extra>",
        )
    )  # fmt: skip
    plot.add_vline(facts.max_length + 0.5, line={"color": "var(--c2)", "width": 2, "dash": "dash"})
    cut = f"{facts.cut:.1%}" if facts.cut else "none"
    text = f"max_length {facts.max_length}: {cut} cut"
    plot.add_annotation(
        x=facts.max_length, y=1, yref="paper", text=text, showarrow=False, xanchor="right", xshift=-6, yanchor="bottom",
        font={"color": "var(--c2)"},
    )  # fmt: skip
    plot.update_layout(height=280, showlegend=False, bargap=0, margin={"l": 8, "r": 12, "t": 30, "b": 8})
    plot.update_xaxes(
        title="tokens of a training text", showgrid=False, range=[0, max(longest, facts.max_length) * 1.02]
    )
    plot.update_yaxes(title="texts")
    middle = np.median(facts.lengths) if len(facts.lengths) else 0
    note = f"Half of the training texts have {middle:.0f} tokens or more; "
    if facts.cut:
        note += f"{cut} are longer than encoder.max_length={facts.max_length}, and what is beyond was not read."
    else:
        note += f"none is longer than encoder.max_length={facts.max_length}."
    test = facts.table.test_count.to_numpy()
    rare = np.flatnonzero(test < RARE)
    rows = pd.DataFrame(
        {
            facts.noun: [facts.labels[c] for c in rare],
            "train": facts.counts[rare],
            "validation": one_hot(facts.validation_targets, len(test)).getnnz(axis=0)[rare],
            "test": test[rare],
        }
    )
    counts = dict.fromkeys(("train", "validation", "test"), ",d")
    caption = f"{facts.nouns.capitalize()} with fewer than {RARE} test texts, whose own scores say little"
    body = render(
        "data.panel.html",
        lengths=figure("lengths-plot", plot, f"Histogram of the tokens of training texts. {text}"),
        splits=table(_splits(facts), dict.fromkeys(("texts", "unseen"), ",d"), "Splits"),
        audit=facts.audit,
        rare=table(rows, counts, caption) if len(rare) else "",
        summary=f"{len(rare):,} of {len(test):,} {facts.nouns} have fewer than {RARE} test texts",
    )
    return Panel("data", "Data", note, body)


def _effect(facts: RunFacts) -> str:
    """Returns what the strategy did to the distance between the largest and the smallest class."""
    known = facts.counts > 0
    counts, emphasis = facts.counts[known], facts.emphasis[known]
    before, after = counts.max() / counts.min(), emphasis.max() / max(emphasis.min(), 1e-300)
    if abs(after / before - 1) < 0.01:
        return f"Nothing: the largest {facts.noun} counts {before:,.0f} times the smallest, as in the data."
    words = f"The largest {facts.noun} has {before:,.0f} times the examples of the smallest; in training "
    if abs(after - 1) < 0.01:
        return f"{words}each counts the same."
    return f"{words}it counts {after:,.3g} times as much."


def _behind(rows: pd.DataFrame, formats: dict[str, str], facts: RunFacts) -> Markup:
    return render(
        "behind.html", summary=f"The numbers of all {len(rows):,} {facts.nouns}",
        body=table(rows, formats, f"{facts.nouns.capitalize()} by training examples"),
    )  # fmt: skip


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


def _splits(facts: RunFacts) -> pd.DataFrame:
    rows = []
    for name, part in facts.metrics.get("data", {}).items():
        dropped = ", ".join(f"{count:,} {why}" for why, count in part.get("dropped", {}).items())
        rows.append(
            {"split": name, "texts": part["examples"], "unseen": part.get("unseen", 0), "dropped": dropped or "–"}
        )
    return pd.DataFrame(rows, columns=["split", "texts", "unseen", "dropped"])
