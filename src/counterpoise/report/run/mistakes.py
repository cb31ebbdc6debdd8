"""Panel of the worst mistakes with their texts."""

from typing import Any

import numpy as np
from scipy.special import expit, logit

from counterpoise.report.html_page import Panel, data, render
from counterpoise.training.results import RunResults

MAX_MISTAKES = 150
"""Number of mistakes of each kind on the page, over all classes."""
MAX_PER_CLASS = 3
"""Mistakes of each class that the page holds in addition."""
MAX_CHARACTERS = 4000
"""Characters of a text that the page holds."""


def mistakes_panel(results: RunResults) -> Panel:
    """Return the panel of the worst mistakes with their texts."""
    listed, counts = (_multi_label if results.multi_label else _single_label)(results)
    rows = np.unique([each["row"] for each in listed]).astype(np.int64)
    texts = dict(zip(rows.tolist(), map(_truncate, results.texts(rows)), strict=True)) if len(rows) else {}
    total = int(next(iter(counts.values())).sum())
    content = {
        "labels": results.labels,
        "multi": results.multi_label,
        "errors": listed,
        "complete": len(listed) == total,
        "texts": texts,
        "ids": {int(row): str(results.ids[row]) for row in rows},
    }
    if results.multi_label:
        content["truth"] = {int(row): results.truth[row].indices for row in rows}
        content["predicted"] = {int(row): results.predicted[row].indices for row in rows}
    choices: dict[str, list[tuple[str, int, int]]] = {"label": [], "true": [], "predicted": []}
    for role, count in counts.items():
        named = [(results.labels[c], c, int(count[c])) for c in np.flatnonzero(count).tolist()]
        choices[role] = sorted(named, key=lambda choice: (-choice[2], choice[0]))
    note = _note(results, total)
    if len(listed) < total:
        note += (
            f" Showing {len(listed):,} of {total:,}: the worst overall and the worst {MAX_PER_CLASS} of each "
            f"{results.noun}."
        )
    body = render("run/mistakes.html", multi=results.multi_label, data=data("errors-data", content), choices=choices)
    return Panel("errors", "Worst mistakes", note, body)


def _note(results: RunResults, total: int) -> str:
    top_k = results.setting("decision", "top_k")
    if top_k is not None:
        return (
            f"The run predicted the {top_k} most probable labels of each text. False positives with the highest and "
            "false negatives with the lowest probability come first."
        )
    if results.multi_label:
        return "False positives and false negatives, those furthest from the label's threshold first."
    return (
        f"{total:,} of {len(results.ids):,} test texts are misclassified. The most confident mistakes come first; some "
        "may be annotation errors."
    )


def _truncate(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"


def _single_label(results: RunResults) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Return the worst mistakes in order, and the number of all mistakes of each class, int [C], by role."""
    predicted, truth = results.test_logits.argmax(axis=1), np.asarray(results.test_targets)
    rows = np.arange(len(truth))
    p_predicted, p_true = (np.exp(results.test_logits[rows, each] - results.normalisers) for each in (predicted, truth))
    wrong = np.flatnonzero(predicted != truth)
    wrong = wrong[np.argsort(-p_predicted[wrong], kind="stable")]
    roles = {"true": truth[wrong], "predicted": predicted[wrong]}
    listed = [
        {
            "row": int(row),
            "true": int(truth[row]),
            "predicted": int(predicted[row]),
            "p_predicted": round(float(p_predicted[row]), 4),
            "p_true": round(float(p_true[row]), 4),
        }
        for row in wrong[_worst(*roles.values())]
    ]
    return listed, {role: np.bincount(found, minlength=len(results.labels)) for role, found in roles.items()}


def _multi_label(results: RunResults) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Return the same for labels, sorted by the distance between logit and threshold.

    A run that predicts the most probable labels has no thresholds; its mistakes are sorted by probability.
    """
    assert results.thresholds is not None
    predicted, truth = results.predicted, results.truth
    correct = truth.multiply(predicted).astype(np.int8)
    uses_thresholds = results.setting("decision", "top_k") is None
    cuts = logit(results.thresholds) if uses_thresholds else np.zeros(len(results.labels))
    ranked: list[tuple[int, dict[str, Any]]] = []
    counts = np.zeros(len(results.labels), np.int64)
    for kind, cells, sign in (("false_positive", predicted, 1), ("false_negative", truth, -1)):
        rows, columns = (cells.astype(np.int8) - correct).nonzero()
        counts += np.bincount(columns, minlength=len(counts))
        distances = sign * (results.test_logits[rows, columns].astype(np.float64) - cuts[columns])
        order = np.argsort(-distances, kind="stable")
        rows, columns = rows[order], columns[order]
        for rank, place in enumerate(_worst(columns)):
            row, column = int(rows[place]), int(columns[place])
            mistake: dict[str, Any] = {"kind": kind, "row": row, "label": column}
            mistake["p"] = round(float(expit(results.test_logits[row, column])), 4)
            if uses_thresholds:
                mistake["threshold"] = round(float(results.thresholds[column]), 4)
            ranked.append((rank, mistake))
    # Alternate between the two kinds: their distances from the threshold are not comparable.
    return [mistake for _, mistake in sorted(ranked, key=lambda each: each[0])], {"label": counts}


def _worst(*classes: np.ndarray) -> np.ndarray:
    """Return the indices of the mistakes that the page holds: the worst overall and the worst of each class.

    Args:
        classes: For each role, the class of each mistake, int [M], with the worst mistake first.
    """
    keep = np.arange(len(classes[0])) < MAX_MISTAKES
    for each in classes:
        order = np.argsort(each, kind="stable")
        starts = np.flatnonzero(np.diff(each[order], prepend=-1))
        rank_in_class = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
        keep[order[rank_in_class < MAX_PER_CLASS]] = True
    return np.flatnonzero(keep)
