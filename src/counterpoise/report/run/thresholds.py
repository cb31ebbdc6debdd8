"""Panel of decision thresholds of a multi-label run."""

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from scipy.sparse import csr_matrix
from scipy.special import logit

from counterpoise.report.count_axis import log_count_axis, positions
from counterpoise.report.html_page import Panel, data, figure, render
from counterpoise.training.results import BLOCK_SIZE, RunResults, one_hot

GRID = np.arange(1, 200) / 200
"""Thresholds that the page offers."""


def thresholds_panel(results: RunResults) -> Panel | None:
    """Return the panel of the effect of thresholds, None for a single-label run."""
    if results.thresholds is None or results.decided is None:
        return None
    splits = {
        "test": histogram(results.test_logits, results.truth),
        "validation": histogram(results.validation_logits, one_hot(results.validation_targets, len(results.labels))),
    }
    order = np.argsort(-results.counts, kind="stable").tolist()
    top_k = results.setting("decision", "top_k")
    content = {
        "labels": results.labels,
        "grid": GRID,
        "thresholds": results.thresholds if top_k is None else None,
        "splits": splits,
    }
    test = results.metrics["test"]
    rows = [
        (name, [test.get(f"{average}_{name.lower()}") for average in ("micro", "macro")])
        for name in ("Precision", "Recall", "F1")
    ]
    plot = go.Figure()
    plot.update_xaxes(range=[0, 1], title="threshold for all labels", showgrid=False)
    plot.update_yaxes(range=[0, 1.02], rangemode="tozero")
    plot.update_layout(height=330)
    body = render(
        "run/thresholds.html",
        data=data("thresholds-data", content),
        steps=len(GRID),
        half=int(np.searchsorted(GRID, 0.5)) + 1,
        labels=[results.labels[c] for c in order],
        order=order,
        rows=rows,
        predicted_per_text=test.get("predicted_per_text"),
        labels_per_text=test.get("labels_per_text"),
        plot=figure("thresholds-plot", plot, "Precision, recall and F1 against one threshold for all labels"),
        own_thresholds=_own_thresholds(results) if top_k is None else "",
    )
    low, high = np.quantile(results.thresholds, [0.05, 0.95])
    note = "Move the threshold to see its effect. Choose it on validation; the test split gives the unbiased score. "
    if top_k is None:
        note += f"The run's own thresholds are shown below; 90 % of them lie between {low:.2f} and {high:.2f}."
    else:
        note += f"The run used no thresholds: it predicted the {top_k} most probable labels of each text."
    return Panel("thresholds", "Thresholds", note, body)


def histogram(logits: np.ndarray, truth: csr_matrix) -> dict[str, object]:
    """Count the probabilities of each label between the thresholds of `GRID`.

    Args:
        logits: Float [N, C].
        truth: Bool csr [N, C].

    Returns:
        `texts`, the number of texts, and two int arrays [C, 200]: `predicted` counts all texts and `true_positives`
        those that have the label. Texts in bins k + 1 and above have a probability above GRID[k].
    """
    classes, bins = logits.shape[1], len(GRID) + 1
    predicted, true_positives = np.zeros((2, classes * bins), np.int64)
    step = max(1, BLOCK_SIZE // classes)
    for start in range(0, len(logits), step):
        block, block_truth = logits[start : start + step].astype(np.float64), truth[start : start + step]
        cells = np.searchsorted(logit(GRID), block, side="left") + bins * np.arange(classes)
        rows = np.repeat(np.arange(len(block)), np.diff(block_truth.indptr))
        predicted += np.bincount(cells.ravel(), minlength=classes * bins)
        true_positives += np.bincount(cells[rows, block_truth.indices], minlength=classes * bins)
    return {
        "texts": len(logits),
        "predicted": predicted.reshape(classes, bins),
        "true_positives": true_positives.reshape(classes, bins),
    }


def _own_thresholds(results: RunResults) -> Markup:
    """Return the figure of the run's threshold of each label against its training count."""
    plot = go.Figure(
        go.Scatter(
            x=positions(results.counts),
            y=results.thresholds,
            mode="markers",
            customdata=np.column_stack([np.array(results.labels, object), results.counts.astype(object)]),
            marker={"color": "var(--c4)", "size": 6 if len(results.labels) > 150 else 9, "opacity": 0.55},
            hovertemplate="%{customdata[0]}<br>%{customdata[1]:,} training examples<br>threshold %{y:.3f}"
            "<extra></extra>",
        )
    )
    plot.update_xaxes(title="training examples, log scale", showgrid=False, **log_count_axis(results.counts, 1.25))
    plot.update_yaxes(range=[0, 1.02], title="threshold of the label")
    plot.update_layout(height=300)
    return figure("own-thresholds-plot", plot, "Threshold of each label against its training examples")
