"""What is taken for what, and the worst mistakes with their texts."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.sparse import csr_matrix, hstack
from scipy.special import expit, logit

from counterpoise.report.html_page import Panel, data, figure, render, table
from counterpoise.training.results import RunResults

SIZES = (10, 20, 30, 50, 80)
PAIRS = 25
"""Rows of the table of the most confused pairs."""
WORST = 150
"""Worst mistakes that are kept, of each kind, whatever their class."""
OF_CLASS = 3
"""Worst mistakes that are kept of each class."""
CHARACTERS = 4000
"""Of a text that are kept."""


def confused(truth: csr_matrix, given: csr_matrix, multi_label: bool) -> csr_matrix:
    """Returns how many texts of class i (row) were given j (column), int [C, C]; multi-label in how many texts i was
    missed and j wrongly given, with one more column for those that were given nothing wrong.
    """
    if not multi_label:
        return (truth.T.astype(np.int64) @ given.astype(np.int64)).tocsr()
    right = truth.multiply(given)
    missed, wrong = ((each.astype(np.int8) - right.astype(np.int8)).astype(np.int64) for each in (truth, given))
    for each in (missed, wrong):
        each.eliminate_zeros()
    nothing = csr_matrix((wrong.getnnz(axis=1) == 0).astype(np.int64)[:, None])
    return (missed.T @ hstack([wrong, nothing], format="csr")).tocsr()


def confusion(results: RunResults) -> Panel:
    """Returns the panel of the confusions."""
    cells = confused(results.truth, results.predicted, results.multi_label).tocoo()
    support = np.bincount(results.truth.indices, minlength=len(results.labels))
    size = len(results.labels)
    off = (cells.row != cells.col) & (cells.col < size)
    order = np.lexsort((cells.col[off], cells.row[off], -cells.data[off]))[:PAIRS]
    missed, instead = cells.row[off][order], cells.col[off][order]
    counts = cells.data[off][order]
    words = ("missed", "given wrongly") if results.multi_label else ("truth", "prediction")
    pairs = pd.DataFrame(
        {
            words[0]: [results.labels[i] for i in missed],
            words[1]: [results.labels[j] for j in instead],
            "texts": counts,
            f"of the {results.noun}": counts / np.maximum(support[missed], 1),
            f"train, {words[0]}": results.counts[missed],
            f"train, {words[1]}": results.counts[instead],
        }
    )
    formats = {"texts": ",d", f"of the {results.noun}": ".1%"} | {f"train, {word}": ",d" for word in words}
    content = {
        "labels": results.labels, "support": support, "train": results.counts, "multi": results.multi_label,
        "rows": cells.row, "columns": cells.col, "counts": cells.data, "noun": results.noun,
    }  # fmt: skip
    plot = go.Figure()
    plot.update_layout(height=640, showlegend=False)
    errors = np.bincount(cells.row[off], cells.data[off], size) + np.bincount(cells.col[off], cells.data[off], size)
    busy = [c for c in np.argsort(-errors, kind="stable").tolist() if errors[c]]
    if results.multi_label:
        note = (
            "Which label is missed (row) in texts that wrongly get another (column), as a share of the texts that have "
            "it. A text with several of either counts in each pair."
        )
    else:
        note = (
            "What the texts of a class (row) were taken for (column): blue is right, orange is wrong, blank is never."
        )
    sizes = [each for each in SIZES if each < size]
    if size <= 80:
        sizes.append(size)
    body = render(
        "run/confusion.html",
        noun=results.noun,
        data=data("confusion-data", content),
        sizes=sizes,
        first=size if size <= 30 else 20,
        size=size,
        centres=[(c, results.labels[c], int(errors[c])) for c in busy],
        plot=figure(
            "confusion-plot", plot, f"Confusions between {results.nouns}; the table below has the most frequent"
        ),
        pairs=table(pairs, formats, f"The {len(pairs)} most confused pairs of {results.nouns}") if len(pairs) else "",
    )
    return Panel("confusion", "Confusion", note, body)


def errors(results: RunResults) -> Panel:
    """Returns the panel of the surest mistakes with their texts."""
    kept, counts = _multi_label(results) if results.multi_label else _single_label(results)
    rows = np.unique([each["row"] for each in kept]).astype(np.int64)
    texts = dict(zip(rows.tolist(), map(_cut, results.texts(rows)), strict=True)) if len(rows) else {}
    total = int(next(iter(counts.values())).sum())
    content = {
        "labels": results.labels,
        "multi": results.multi_label,
        "errors": kept,
        "whole": len(kept) == total,
        "texts": texts,
        "ids": {int(row): str(results.ids[row]) for row in rows},
    }
    if results.multi_label:
        content["truth"] = {int(row): results.truth[row].indices for row in rows}
        content["given"] = {int(row): results.predicted[row].indices for row in rows}
    choices: dict[str, list[tuple[str, int, int]]] = {"label": [], "true": [], "predicted": []}
    for role, found in counts.items():
        named = [(results.labels[c], c, int(found[c])) for c in np.flatnonzero(found).tolist()]
        choices[role] = sorted(named, key=lambda choice: (-choice[2], choice[0]))
    top_k = results.setting("decision", "top_k")
    if top_k is not None:
        note = (
            f"Each text got its {top_k} most probable labels. Those given although wrong, the most probable first, and "
        )
        note += "those missed, the least probable first."
    elif results.multi_label:
        note = "Labels given although wrong and labels missed, each the furthest beyond their thresholds first."
    else:
        note = (
            f"{total:,} of {len(results.ids):,} test texts are wrong, the surest first. Some labels may be the mistake."
        )
    if len(kept) < total:
        note += f" Kept are {len(kept):,} of {total:,}: the first, and the first few of each {results.noun}."
    body = render("run/mistakes.html", multi=results.multi_label, data=data("errors-data", content), choices=choices)
    return Panel("errors", "Worst mistakes", note, body)


def _cut(text: str) -> str:
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}…"


def _single_label(results: RunResults) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Returns the mistakes that are kept, the surest first, and how many there are of each class, int [C], by role."""
    predicted, truth = results.test_logits.argmax(axis=1), np.asarray(results.test_targets)
    rows = np.arange(len(truth))
    sure, right = (np.exp(results.test_logits[rows, each] - results.normalisers) for each in (predicted, truth))
    wrong = np.flatnonzero(predicted != truth)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")]
    roles = {"true": truth[wrong], "predicted": predicted[wrong]}
    kept = [
        {
            "row": int(row), "true": int(truth[row]), "predicted": int(predicted[row]),
            "p": round(float(sure[row]), 4), "q": round(float(right[row]), 4),
        }
        for row in wrong[_worst(*roles.values())]
    ]  # fmt: skip
    return kept, {role: np.bincount(found, minlength=len(results.labels)) for role, found in roles.items()}


def _multi_label(results: RunResults) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Returns the same of labels: how far above its threshold one was given, or below it missed. Where the most
    probable labels are given thresholds mean nothing, and the probability alone counts.
    """
    assert results.thresholds is not None
    given, truth = results.predicted, results.truth
    right = truth.multiply(given).astype(np.int8)
    used = results.setting("decision", "top_k") is None
    cuts = logit(results.thresholds) if used else np.zeros(len(results.labels))
    result: list[tuple[int, dict[str, Any]]] = []
    counts = np.zeros(len(results.labels), np.int64)
    for kind, cells, sign in (("given", given, 1), ("missed", truth, -1)):
        rows, columns = (cells.astype(np.int8) - right).nonzero()
        counts += np.bincount(columns, minlength=len(counts))
        beyond = sign * (results.test_logits[rows, columns].astype(np.float64) - cuts[columns])
        order = np.argsort(-beyond, kind="stable")
        rows, columns = rows[order], columns[order]
        for rank, place in enumerate(_worst(columns)):
            row, column = int(rows[place]), int(columns[place])
            error = {"kind": kind, "row": row, "label": column}
            error["p"] = round(float(expit(results.test_logits[row, column])), 4)
            if used:
                error["threshold"] = round(float(results.thresholds[column]), 4)
            result.append((rank, error))
    # The surest of both kinds in turn: their distances from a threshold do not compare.
    return [error for _, error in sorted(result, key=lambda each: each[0])], {"label": counts}


def _worst(*classes: np.ndarray) -> np.ndarray:
    """Returns which of the mistakes, sorted by how bad they are, are kept: the worst, and the worst of each class.

    classes: int [M] each, one for every role that a class plays in a mistake.
    """
    keep = np.arange(len(classes[0])) < WORST
    for roles in classes:
        # Of each class the first few: their place among those of the same class.
        order = np.argsort(roles, kind="stable")
        starts = np.flatnonzero(np.diff(roles[order], prepend=-1))
        place = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
        keep[order[place < OF_CLASS]] = True
    return np.flatnonzero(keep)
