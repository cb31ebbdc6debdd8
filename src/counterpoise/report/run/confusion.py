"""Panel of the confusion matrix and the most frequent confusions."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from scipy.sparse import coo_matrix, csr_matrix, hstack

from counterpoise.report.html_page import Panel, data, figure, render, table
from counterpoise.training.results import RunResults

SIZES = (10, 20, 30, 50, 80)
"""Numbers of classes that the reader can choose."""
PAIRS = 25
"""Rows of the table of the most frequent confusions."""


def confusion_panel(results: RunResults) -> Panel:
    """Return the panel of the confusions."""
    cells = confusion_counts(results.truth, results.predicted, results.multi_label).tocoo()
    support = np.bincount(results.truth.indices, minlength=len(results.labels))
    size = len(results.labels)
    wrong = (cells.row != cells.col) & (cells.col < size)
    errors = np.bincount(cells.row[wrong], cells.data[wrong], size)
    errors += np.bincount(cells.col[wrong], cells.data[wrong], size)
    confused = [c for c in np.argsort(-errors, kind="stable").tolist() if errors[c]]
    content = {
        "labels": results.labels,
        "support": support,
        "train": results.counts,
        "multi": results.multi_label,
        "rows": cells.row,
        "columns": cells.col,
        "counts": cells.data,
    }
    if results.multi_label:
        note = (
            "Rows are missed labels, columns are labels that were wrongly predicted for the same text, as a share of "
            "the texts with the missed label. A text with several errors counts in each pair."
        )
    else:
        note = (
            "Rows are true classes, columns are predicted classes. Blue: correct. Orange: wrong. Blank: no text. "
            "Numbers in cells are percentages of the row."
        )
    sizes = [each for each in SIZES if each < size] + ([size] if size <= SIZES[-1] else [])
    plot = go.Figure()
    plot.update_layout(height=640, showlegend=False)
    body = render(
        "run/confusion.html",
        noun=results.noun,
        data=data("confusion-data", content),
        sizes=sizes,
        first=size if size <= 30 else 20,
        size=size,
        centres=[(c, results.labels[c], int(errors[c])) for c in confused],
        plot=figure(
            "confusion-plot", plot, f"Confusions between {results.nouns}; the table below lists the most frequent"
        ),
        pairs=_pairs(results, cells, wrong, support) if wrong.any() else "",
    )
    return Panel("confusion", "Confusion", note, body)


def confusion_counts(truth: csr_matrix, predicted: csr_matrix, multi_label: bool) -> csr_matrix:
    """Count confusions.

    Args:
        truth: True classes or labels, bool [N, C].
        predicted: Predicted classes or labels, bool [N, C].
        multi_label: Whether a text can have several labels.

    Returns:
        Single-label: int [C, C], texts of class i (row) that were predicted as class j (column). Multi-label:
        int [C, C + 1], texts in which label i was missed and label j was wrongly predicted; the last column counts
        texts without a wrongly predicted label.
    """
    if not multi_label:
        return (truth.T.astype(np.int64) @ predicted.astype(np.int64)).tocsr()
    correct = truth.multiply(predicted).astype(np.int8)
    missed, wrong = ((each.astype(np.int8) - correct).astype(np.int64) for each in (truth, predicted))
    for each in (missed, wrong):
        each.eliminate_zeros()
    nothing = csr_matrix((wrong.getnnz(axis=1) == 0).astype(np.int64)[:, None])
    return (missed.T @ hstack([wrong, nothing], format="csr")).tocsr()


def _pairs(results: RunResults, cells: coo_matrix, wrong: np.ndarray, support: np.ndarray) -> Markup:
    """Return the table of the most frequent confusions."""
    order = np.lexsort((cells.col[wrong], cells.row[wrong], -cells.data[wrong]))[:PAIRS]
    rows, columns, counts = (each[wrong][order] for each in (cells.row, cells.col, cells.data))
    titles = ("missed", "wrongly predicted") if results.multi_label else ("true", "predicted")
    frame = pd.DataFrame(
        {
            titles[0]: [results.labels[i] for i in rows],
            titles[1]: [results.labels[j] for j in columns],
            "texts": counts,
            f"share of {titles[0]}": counts / np.maximum(support[rows], 1),
            f"train, {titles[0]}": results.counts[rows],
            f"train, {titles[1]}": results.counts[columns],
        }
    )
    formats = {"texts": ",d", f"share of {titles[0]}": ".1%"} | {f"train, {each}": ",d" for each in titles}
    return table(frame, formats, f"The {len(frame)} most frequent confusions of {results.nouns}")
