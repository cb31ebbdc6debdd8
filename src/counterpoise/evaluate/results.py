"""The files and pictures of a tested run."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from counterpoise.atomic import replacing
from counterpoise.evaluate import multilabel, pictures
from counterpoise.evaluate.metrics import Bounds, confusion_matrix, per_class
from counterpoise.evaluate.predictions import write_multilabel_predictions, write_predictions


def write_single_label(
    run: Path,
    name: str,
    ids: Sequence[str],
    labels: Sequence[str],
    counts: np.ndarray,
    classes: np.ndarray,
    logits: np.ndarray,
    bounds: Bounds,
) -> None:
    """Writes what belongs to N texts of one class each into the folder `run`.

    name: of the run in the pictures. labels: C names; counts: int [C], their training examples; classes: int [N], the
    truth; logits: float [N, C]; bounds: of head, medium and tail.
    """
    confusion = confusion_matrix(classes, logits.argmax(1), len(labels))
    table = per_class(confusion, counts)
    table.insert(0, "class", list(labels))
    table.to_csv(run / "per_class.csv", index=False)
    write_predictions(run / "predictions.parquet", ids, labels, classes, logits)
    pictures.confusion(run / "confusion.png", confusion, labels)
    pictures.recall_vs_count(run / "recall_vs_count.png", {name: (counts, table["recall"].to_numpy())}, None, *bounds)
    _write_curves(run)


def write_multi_label(
    run: Path,
    name: str,
    ids: Sequence[str],
    labels: Sequence[str],
    counts: np.ndarray,
    targets: csr_matrix,
    logits: np.ndarray,
    decided: np.ndarray,
    thresholds: np.ndarray,
    bounds: Bounds,
) -> None:
    """Writes what belongs to N texts of any number of labels into the folder `run`.

    As `write_single_label`; targets and decided: bool [N, C], the truth and what the texts get; thresholds: float [C].
    """
    table = multilabel.per_label(decided, logits, targets, counts)
    table.insert(0, "class", list(labels))
    table["threshold"] = thresholds
    table.to_csv(run / "per_class.csv", index=False)
    with replacing(run / "thresholds.json") as path:
        by_label = dict(zip(labels, thresholds.tolist(), strict=True))
        path.write_text(json.dumps(by_label, indent=2, ensure_ascii=False), encoding="utf-8")
    write_multilabel_predictions(run / "predictions.parquet", ids, labels, targets, logits, decided)
    at_half = multilabel.per_label(logits > 0, logits, targets, counts)["recall"].to_numpy()
    runs = {
        f"{name}, threshold 0.5": (counts, at_half),
        f"{name}, as decided": (counts, table["recall"].to_numpy()),
    }
    pictures.recall_vs_count(run / "recall_vs_count.png", runs, None, *bounds, unit="label")
    _write_curves(run)


def _write_curves(run: Path) -> None:
    history = run / "csv" / "metrics.csv"
    if history.is_file():
        pictures.curves(run / "curves.png", pd.read_csv(history))
