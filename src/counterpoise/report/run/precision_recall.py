"""Panel of precision-recall curves."""

import numpy as np
import plotly.graph_objects as go
from scipy.special import expit

from counterpoise.report.html_page import Panel, data, figure, render
from counterpoise.training.results import BLOCK_SIZE, RunResults

MIN_TEST_COUNT = 10
"""Test texts that a class needs for its curve to be shown initially."""


def precision_recall_panel(results: RunResults) -> Panel:
    """Return the panel of the precision-recall curves of chosen classes."""
    plot = go.Figure()
    plot.update_xaxes(range=[-0.01, 1.01], title="recall")
    plot.update_yaxes(range=[-0.01, 1.03], title="precision")
    plot.update_layout(height=430)
    content = {
        "labels": results.labels,
        "series": curves(results),
        "positives": np.bincount(results.truth.indices, minlength=len(results.labels)),
        "train": results.counts,
        "chosen": _initial_classes(results),
        "decisions": [results.table.precision.to_numpy(), results.table.recall.to_numpy()],
    }
    note = (
        f"Precision and recall of a {results.noun} for every threshold on its probability. A ring marks the run's own "
        "decisions. The number beside the name is the average precision."
    )
    body = render(
        "run/precision_recall.html",
        noun=results.noun,
        data=data("curves-data", content),
        plot=figure("curves-plot", plot, f"Precision against recall of chosen {results.nouns}"),
    )
    return Panel("curves", "Precision and recall", note, body)


def curves(results: RunResults) -> list[dict[str, np.ndarray] | None]:
    """Return the curve of each class, None for classes without test texts.

    Returns:
        For each distinct score of a positive text, in descending order: `cuts` (its probability), `predicted` and
        `true_positives` (texts and positive texts with at least this score).
    """
    positives = results.truth.tocsc()
    found: list[dict[str, np.ndarray] | None] = []
    step = max(1, BLOCK_SIZE // max(len(results.ids), 1))
    for start in range(0, len(results.labels), step):
        scores = results.test_logits[:, start : start + step].T.copy()
        if not results.multi_label:
            scores = scores - results.normalisers
        for c, values in enumerate(scores, start):
            positive = np.sort(values[positives.indices[positives.indptr[c] : positives.indptr[c + 1]]])
            if not len(positive):
                found.append(None)
                continue
            values.sort()
            cuts = np.unique(positive)[::-1]
            true_positives, predicted = (len(each) - np.searchsorted(each, cuts) for each in (positive, values))
            shown = expit(cuts.astype(np.float64)) if results.multi_label else np.exp(cuts)
            found.append({"true_positives": true_positives, "predicted": predicted, "cuts": shown.round(4)})
    return found


def _initial_classes(results: RunResults) -> list[int]:
    """Return the largest class and the two with the lowest F1 among those with enough test texts."""
    table = results.table
    enough = np.flatnonzero(table.test_count >= min(MIN_TEST_COUNT, table.test_count.max()))
    if not len(enough) or not table.test_count.max():
        return []
    largest = int(enough[results.counts[enough].argmax()])
    worst = [c for c in enough[np.argsort(table.f1.to_numpy()[enough], kind="stable")].tolist() if c != largest]
    return [largest, *worst[:2]]
