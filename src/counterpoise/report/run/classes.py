"""What became of each class: scores against training counts, precision-recall curves, thresholds."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from scipy.sparse import csr_matrix
from scipy.special import expit, logit

from counterpoise.analysis.plots import count_marks
from counterpoise.report.html_page import Panel, data, figure, render, table
from counterpoise.training.results import BLOCK_SIZE, RunResults, one_hot

GRID = np.arange(1, 200) / 200
"""The global thresholds that the page offers."""
ENOUGH = 10
"""Test texts from which on a class may be one of those whose curve is drawn at first."""


def recall(results: RunResults) -> Panel:
    """Returns the panel of the scores of each class against its training count."""
    rows = results.table.assign(bucket=results.buckets)
    rows[results.noun] = results.labels
    rows = rows[rows.test_count > 0]
    measures = [name for name in ("recall", "precision", "f1", "average_precision") if name in rows]
    crowd = len(rows) > 150
    # Classes of a few examples share a count: they stand side by side, in an order that says nothing else.
    place = np.maximum(rows.train_count.to_numpy(float), 0.5)
    least, most = (float(place.min()), float(place.max())) if len(place) else (1.0, 1.0)
    if crowd:
        place *= 1.09 ** (np.random.default_rng(0).random(len(rows)) - 0.5)
    hover = rows[[results.noun, "train_count", "test_count", "recall", "precision", "f1"]].to_numpy(object)
    tip = (
        "%{customdata[0]}<br>%{customdata[1]:,} training, %{customdata[2]:,} test examples<br>"
        "recall %{customdata[3]:.3f}, precision %{customdata[4]:.3f}, F1 %{customdata[5]:.3f}<extra></extra>"
    )
    size = np.clip(4 + 1.6 * np.sqrt(rows.test_count), 5, 22) * (0.7 if crowd else 1)
    plot = go.Figure()
    plot.add_scatter(
        x=place, y=rows.recall, mode="markers", customdata=hover, hovertemplate=tip, name=f"one {results.noun}",
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
    low, high = least / 1.3, most * 1.3
    for edge in (results.bounds.tail_max - 0.5, results.bounds.head_min - 0.5):
        if low < edge < high:
            plot.add_vline(edge, line={"color": "var(--faint)", "width": 1, "dash": "dot"})
    borders = [low, results.bounds.tail_max - 0.5, results.bounds.head_min - 0.5, high]
    for name, left, right in zip(("tail", "medium", "head"), borders[:-1], borders[1:], strict=True):
        left, right = max(left, low), min(right, high)
        if left < right:
            middle = (np.log10(left) + np.log10(right)) / 2
            plot.add_annotation(x=middle, y=1.07, text=name, showarrow=False, font={"color": "var(--muted)"})
    plot.update_xaxes(title=f"training examples of the {results.noun}, log scale", **_log_axis(least, most, 1.3))
    plot.update_yaxes(range=[-0.03, 1.12], title="recall", tickvals=[0, 0.2, 0.4, 0.6, 0.8, 1])
    plot.update_layout(height=430)
    means = {name: results.metrics["test"].get(f"{name}_recall") for name in ("head", "medium", "tail")}
    parts = [f"{name} {value:.2f}" for name, value in means.items() if value is not None]
    note = f"Each point is a {results.noun}, larger with more test examples. Mean recall: {', '.join(parts)}."
    absent = int((results.table.test_count == 0).sum())
    note += f" Left out: {absent:,} without a test text." if absent else ""
    values = {name: rows[name].to_numpy() for name in measures} | {"label": rows[results.noun].tolist()}
    shown = rows[[results.noun, "bucket", "train_count", "test_count", *measures]].sort_values(
        "train_count", ascending=False, kind="stable"
    )
    formats = dict.fromkeys(("train", "test"), ",d") | dict.fromkeys(
        (name.replace("_", " ") for name in measures), ".3f"
    )
    names = {"train_count": "train", "test_count": "test", "average_precision": "average precision"}
    body = render(
        "run/recall.html",
        noun=results.noun,
        measures=measures,
        labels=rows[results.noun].tolist(),
        data=data("recall-data", values),
        plot=figure("recall-plot", plot, f"Recall of each {results.noun} against its training examples. {note}"),
        table=table(shown.rename(columns=names), formats, f"Scores of each {results.noun} on the test split"),
        summary=f"The numbers of all {len(rows):,} {results.nouns}",
    )
    return Panel("recall", "Recall by training count", note, body)


def curves(results: RunResults) -> Panel:
    """Returns the panel of the precision-recall curves."""
    by_class = results.truth.tocsc()
    series: list[dict[str, np.ndarray] | None] = []
    step = max(1, BLOCK_SIZE // max(len(results.ids), 1))
    for start in range(0, len(results.labels), step):
        scores = results.test_logits[:, start : start + step].T.copy()
        if not results.multi_label:
            scores = scores - results.normalisers
        for c, values in enumerate(scores, start):
            own = np.sort(values[by_class.indices[by_class.indptr[c] : by_class.indptr[c + 1]]])
            if not len(own):
                series.append(None)
                continue
            values.sort()
            cuts = np.unique(own)[::-1]
            true_positives, called = (len(each) - np.searchsorted(each, cuts) for each in (own, values))
            shown = expit(cuts.astype(np.float64)) if results.multi_label else np.exp(cuts)
            series.append({"true_positives": true_positives, "called": called, "cuts": shown.round(4)})
    counts = np.bincount(results.truth.indices, minlength=len(results.labels))
    plot = go.Figure()
    plot.update_xaxes(range=[-0.01, 1.01], title="recall")
    plot.update_yaxes(range=[-0.01, 1.03], title="precision")
    plot.update_layout(height=430)
    content = {
        "labels": results.labels, "series": series, "positives": counts, "train": results.counts,
        "chosen": _interesting(results),
        "given": [results.table.precision.to_numpy(), results.table.recall.to_numpy()],
    }  # fmt: skip
    note = (
        f"What precision a {results.noun} keeps as more of its texts are found, by its score alone; a ring is where the "
        "run decided. The area under a curve is its average precision."
    )
    body = render(
        "run/precision_recall.html",
        noun=results.noun,
        data=data("curves-data", content),
        plot=figure("curves-plot", plot, f"Precision against recall of chosen {results.nouns}"),
    )
    return Panel("curves", "Precision and recall", note, body)


def thresholds(results: RunResults) -> Panel | None:
    """Returns the panel of what a threshold does; None where texts have one class each."""
    if results.thresholds is None or results.decided is None:
        return None
    size = len(results.labels)
    splits = {
        "test": binned(results.test_logits, results.truth),
        "validation": binned(results.validation_logits, one_hot(results.validation_targets, size)),
    }
    order = np.argsort(-results.counts, kind="stable").tolist()
    top_k = results.setting("decision", "top_k")
    own = results.thresholds if top_k is None else None
    content = {"labels": results.labels, "grid": GRID, "tuned": own, "splits": splits}
    tuned = results.metrics["test"]
    rows = [
        (name, [tuned.get(f"{average}_{name.lower()}") for average in ("micro", "macro")])
        for name in ("Precision", "Recall", "F1")
    ]
    plot = go.Figure()
    plot.update_xaxes(range=[0, 1], title="threshold for all labels", showgrid=False)
    plot.update_yaxes(range=[0, 1.02], rangemode="tozero")
    plot.update_layout(height=330)
    least, most = max(0.5, results.counts.min()), max(0.5, results.counts.max())
    scatter = go.Figure(
        go.Scatter(
            x=np.maximum(results.counts, 0.5), y=results.thresholds, mode="markers",
            customdata=np.array(results.labels, object)[:, None],
            marker={"color": "var(--c4)", "size": 6 if size > 150 else 9, "opacity": 0.55},
            hovertemplate="%{customdata[0]}<br>%{x:,} training examples<br>threshold %{y:.3f}<extra></extra>",
        )
    )  # fmt: skip
    scatter.update_xaxes(title="training examples, log scale", **_log_axis(least, most, 1.25))
    scatter.update_yaxes(range=[0, 1.02], title="threshold of the label")
    scatter.update_layout(height=300)
    body = render(
        "run/thresholds.html",
        data=data("thresholds-data", content),
        steps=len(GRID),
        half=int(np.searchsorted(GRID, 0.5)) + 1,
        labels=[results.labels[c] for c in order],
        order=order,
        rows=rows,
        given=tuned.get("predicted_per_text"),
        own=tuned.get("labels_per_text"),
        plot=figure("thresholds-plot", plot, "Precision, recall and F1 against one threshold for all labels"),
        tuned=figure("tuned-plot", scatter, "The threshold of each label against its training examples")
        if top_k is None
        else "",
    )
    low, high = np.quantile(results.thresholds, [0.05, 0.95])
    note = "Move the threshold and see what is given and missed; choose on validation, judge on test. "
    if top_k is None:
        note += f"The run's own thresholds, nine in ten of them from {low:.2f} to {high:.2f}, are below."
    else:
        note += f"The run itself used none: each text got its {top_k} most probable labels."
    return Panel("thresholds", "Thresholds", note, body)


def binned(logits: np.ndarray, truth: csr_matrix) -> dict[str, object]:
    """Returns by label how many texts, and how many of its own, have a probability in each bin between the thresholds
    of `GRID`, int [C, 200]: those in bins from k + 1 on are above GRID[k].
    """
    classes, bins = logits.shape[1], len(GRID) + 1
    called, true_positives = np.zeros((2, classes * bins), np.int64)
    step = max(1, BLOCK_SIZE // classes)
    for start in range(0, len(logits), step):
        part, own = logits[start : start + step].astype(np.float64), truth[start : start + step]
        cells = np.searchsorted(logit(GRID), part, side="left") + bins * np.arange(classes)
        rows = np.repeat(np.arange(len(part)), np.diff(own.indptr))
        called += np.bincount(cells.ravel(), minlength=classes * bins)
        true_positives += np.bincount(cells[rows, own.indices], minlength=classes * bins)
    called, true_positives = (each.reshape(classes, bins) for each in (called, true_positives))
    return {"texts": len(logits), "called": called, "true_positives": true_positives}


def _interesting(results: RunResults) -> list[int]:
    """Returns the largest class and the two of lowest F1, of those with enough test texts."""
    table = results.table
    enough = np.flatnonzero(table.test_count >= min(ENOUGH, table.test_count.max()))
    if not len(enough) or not table.test_count.max():
        return []
    largest = int(enough[results.counts[enough].argmax()])
    worst = [c for c in enough[np.argsort(table.f1.to_numpy()[enough], kind="stable")].tolist() if c != largest]
    return [largest, *worst[:2]]


def _log_axis(least: float, most: float, room: float) -> dict[str, Any]:
    """Returns an axis of counts on a log scale, which goes beyond the least and the most by a factor."""
    marks, names = count_marks(least, most, room)
    ends = np.log10([least / room, most * room]).tolist()
    return {"type": "log", "range": ends, "tickvals": marks, "ticktext": names, "showgrid": False}
